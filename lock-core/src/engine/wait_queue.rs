//! [`WaitQueues`]: the waiters of this process, a line per name, for stores that have no queue of their own.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::contract::{Claim, Session};
use crate::sync::locked;
use crate::words::{HeldBy, LockName};

/// The waiters of this process for stores that have no queue of their own. Only the head of a line asks and waits at
/// the store; the others wait here, so that sixteen waiters cost one remote waiter and are served in order.
#[derive(Default)]
pub(crate) struct WaitQueues(Mutex<HashMap<LockName, WaitQueue>>);

#[derive(Default)]
struct WaitQueue {
    waiters: VecDeque<Arc<Waiter>>,
    /// The last of this line who was granted the lock: while it holds, nobody needs to ask the store.
    holder: Option<(Claim, Session)>,
}

struct Waiter {
    is_head: AtomicBool,
    wakeup: Notify,
}

/// A place in a line; given up when it is dropped, and then the next one is the head.
pub(crate) struct Ticket {
    queues: Arc<WaitQueues>,
    name: LockName,
    waiter: Arc<Waiter>,
}

impl WaitQueues {
    /// A place at the end of the line for `name`, if there is a line.
    pub(crate) fn join_existing(self: &Arc<Self>, name: &LockName) -> Option<Ticket> {
        let mut lines = locked(&self.0);
        lines.get_mut(name).map(|line| self.ticket(name, line))
    }

    /// A place at the end of the line for `name`.
    pub(crate) fn join(self: &Arc<Self>, name: &LockName) -> Ticket {
        self.ticket(name, locked(&self.0).entry(name.clone()).or_default())
    }

    fn ticket(self: &Arc<Self>, name: &LockName, line: &mut WaitQueue) -> Ticket {
        let spot = Arc::new(Waiter { is_head: AtomicBool::new(line.waiters.is_empty()), wakeup: Notify::new() });
        line.waiters.push_back(spot.clone());
        Ticket { queues: self.clone(), name: name.clone(), waiter: spot }
    }

    /// Somebody of this process gave the lock back: its head shall look at once.
    pub(crate) fn wake_head(&self, name: &LockName) {
        if let Some(head) = locked(&self.0).get(name).and_then(|line| line.waiters.front()) {
            head.wakeup.notify_one();
        }
    }
}

impl Ticket {
    /// Completes when this place becomes the head, or the head is called to look.
    pub(crate) async fn woken(&self) {
        self.waiter.wakeup.notified().await;
    }

    /// The holder of this process that was served before, while it still holds the lock.
    pub(crate) fn local_holder(&self) -> Option<(Claim, Session)> {
        let lines = locked(&self.queues.0);
        let (claim, session) = lines.get(&self.name)?.holder.as_ref()?;
        (!claim.deadline().is_over() && session.is_valid()).then(|| (claim.clone(), session.clone()))
    }

    /// `by`, with how many are ahead of this place: the holder, and those of this process who came before.
    pub(crate) fn ahead(&self, mut by: HeldBy) -> HeldBy {
        let lines = locked(&self.queues.0);
        let places = lines.get(&self.name).map(|line| &line.waiters);
        let before = places.and_then(|places| places.iter().position(|spot| Arc::ptr_eq(spot, &self.waiter)));
        by.ahead = before.map(|before| before as u32 + 1);
        by
    }

    pub(crate) fn is_head(&self) -> bool {
        self.waiter.is_head.load(Ordering::Acquire)
    }

    /// This place was served: `claim` holds the lock on `session`.
    pub(crate) fn grant_to(self, claim: &Claim, session: &Session) {
        if let Some(line) = locked(&self.queues.0).get_mut(&self.name) {
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

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut lines = locked(&self.queues.0);
        let Some(line) = lines.get_mut(&self.name) else { return };
        line.waiters.retain(|spot| !Arc::ptr_eq(spot, &self.waiter));
        match line.waiters.front() {
            Some(head) if !head.is_head.swap(true, Ordering::AcqRel) => head.wakeup.notify_one(),
            Some(_) => {}
            None => {
                lines.remove(&self.name);
            }
        }
    }
}
