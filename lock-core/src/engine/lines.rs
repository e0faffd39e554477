//! [`Lines`]: the waiters of this process, a line per name, for stores that have no queue of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::sync::locked;
use crate::{Claim, HeldBy, LockName, Session};

/// The waiters of this process for stores that have no queue of their own. Only the head of a line asks and waits at
/// the store; the others wait here, so that sixteen waiters cost one remote waiter and are served in order.
#[derive(Default)]
pub(crate) struct Lines(Mutex<HashMap<LockName, Line>>);

#[derive(Default)]
struct Line {
    places: VecDeque<Arc<Spot>>,
    /// The last of this line who was granted the lock: while it holds, nobody needs to ask the store.
    holder: Option<(Claim, Session)>,
}

struct Spot {
    is_head: AtomicBool,
    called: Notify,
}

/// A place in a line; given up when it is dropped, and then the next one is the head.
pub(crate) struct Place {
    lines: Arc<Lines>,
    name: LockName,
    spot: Arc<Spot>,
}

impl Lines {
    /// A place at the end of the line for `name`, if there is a line.
    pub(crate) fn join_formed(self: &Arc<Self>, name: &LockName) -> Option<Place> {
        let mut lines = locked(&self.0);
        lines.get_mut(name).map(|line| self.place(name, line))
    }

    /// A place at the end of the line for `name`.
    pub(crate) fn join(self: &Arc<Self>, name: &LockName) -> Place {
        self.place(name, locked(&self.0).entry(name.clone()).or_default())
    }

    fn place(self: &Arc<Self>, name: &LockName, line: &mut Line) -> Place {
        let spot = Arc::new(Spot { is_head: AtomicBool::new(line.places.is_empty()), called: Notify::new() });
        line.places.push_back(spot.clone());
        Place { lines: self.clone(), name: name.clone(), spot }
    }

    /// Somebody of this process gave the lock back: its head shall look at once.
    pub(crate) fn call_head(&self, name: &LockName) {
        if let Some(head) = locked(&self.0).get(name).and_then(|line| line.places.front()) {
            head.called.notify_one();
        }
    }
}

impl Place {
    /// Completes when this place becomes the head, or the head is called to look.
    pub(crate) async fn called(&self) {
        self.spot.called.notified().await;
    }

    /// The holder of this process that was served before, while it still holds the lock.
    pub(crate) fn local_holder(&self) -> Option<(Claim, Session)> {
        let lines = locked(&self.lines.0);
        let (claim, session) = lines.get(&self.name)?.holder.as_ref()?;
        (!claim.life().is_over() && session.is_valid()).then(|| (claim.clone(), session.clone()))
    }

    /// `by`, with how many are ahead of this place: the holder, and those of this process who came before.
    pub(crate) fn ahead(&self, mut by: HeldBy) -> HeldBy {
        let lines = locked(&self.lines.0);
        let places = lines.get(&self.name).map(|line| &line.places);
        let before = places.and_then(|places| places.iter().position(|spot| Arc::ptr_eq(spot, &self.spot)));
        by.ahead = before.map(|before| before as u32 + 1);
        by
    }

    pub(crate) fn is_head(&self) -> bool {
        self.spot.is_head.load(Ordering::Acquire)
    }

    /// This place was served: `claim` holds the lock on `session`.
    pub(crate) fn served(self, claim: &Claim, session: &Session) {
        if let Some(line) = locked(&self.lines.0).get_mut(&self.name) {
            line.holder = Some((claim.clone(), session.clone()));
        }
    }
}

/// What is known of a holder of this process.
pub(crate) fn held_by(claim: &Claim) -> HeldBy {
    let mut by = HeldBy::holder(claim.holder());
    by.info = Some(claim.info().clone());
    by
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut lines = locked(&self.lines.0);
        let Some(line) = lines.get_mut(&self.name) else { return };
        line.places.retain(|spot| !Arc::ptr_eq(spot, &self.spot));
        match line.places.front() {
            Some(head) if !head.is_head.swap(true, Ordering::AcqRel) => head.called.notify_one(),
            Some(_) => {}
            None => {
                lines.remove(&self.name);
            }
        }
    }
}
