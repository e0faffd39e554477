//! [`WaitQueues`]: the waiters of this process, one queue per name, for stores without a queue.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Notify;

use crate::contract::{Claim, Session};
use crate::sync::locked;
use crate::words::{HeldBy, LockName};

/// The waiters of this process, for stores that have no queue of their own. Only the head of a
/// queue sends requests to the store and waits there; the others wait here, so that sixteen waiters
/// cost one remote waiter and are served in order.
#[derive(Default)]
pub(crate) struct WaitQueues(Mutex<HashMap<LockName, WaitQueue>>);

#[derive(Default)]
struct WaitQueue {
    waiters: VecDeque<Arc<Waiter>>,
    /// The last waiter of this queue that was granted the lock: while it holds, no request is
    /// needed.
    holder: Option<(Claim, Session)>,
}

struct Waiter {
    is_head: AtomicBool,
    wakeup: Notify,
}

/// A place in a queue. When it is dropped, the next waiter becomes the head.
pub(crate) struct Ticket {
    queues: Arc<WaitQueues>,
    name: LockName,
    waiter: Arc<Waiter>,
}

impl WaitQueues {
    /// A ticket at the end of the queue for `name`, if there is a queue.
    pub(crate) fn join_existing(self: &Arc<Self>, name: &LockName) -> Option<Ticket> {
        let mut queues = locked(&self.0);
        queues.get_mut(name).map(|queue| self.ticket(name, queue))
    }

    /// A ticket at the end of the queue for `name`.
    pub(crate) fn join(self: &Arc<Self>, name: &LockName) -> Ticket {
        self.ticket(name, locked(&self.0).entry(name.clone()).or_default())
    }

    fn ticket(self: &Arc<Self>, name: &LockName, queue: &mut WaitQueue) -> Ticket {
        let waiter = Arc::new(Waiter { is_head: AtomicBool::new(queue.waiters.is_empty()), wakeup: Notify::new() });
        queue.waiters.push_back(waiter.clone());
        Ticket { queues: self.clone(), name: name.clone(), waiter }
    }

    /// Wakes the head of the queue, since a holder of this process gave the lock back.
    pub(crate) fn wake_head(&self, name: &LockName) {
        if let Some(head) = locked(&self.0).get(name).and_then(|queue| queue.waiters.front()) {
            head.wakeup.notify_one();
        }
    }
}

impl Ticket {
    /// Completes when this waiter becomes the head, or the head is woken.
    pub(crate) async fn woken(&self) {
        self.waiter.wakeup.notified().await;
    }

    /// The holder that this queue served last, while it still holds the lock.
    pub(crate) fn local_holder(&self) -> Option<(Claim, Session)> {
        let queues = locked(&self.queues.0);
        let (claim, session) = queues.get(&self.name)?.holder.as_ref()?;
        (!claim.deadline().is_over() && session.is_valid()).then(|| (claim.clone(), session.clone()))
    }

    /// `by`, with the number of those ahead of this ticket: the holder, and the earlier waiters of
    /// this process.
    pub(crate) fn ahead(&self, mut by: HeldBy) -> HeldBy {
        let queues = locked(&self.queues.0);
        let waiters = queues.get(&self.name).map(|queue| &queue.waiters);
        let position = waiters.and_then(|waiters| waiters.iter().position(|waiter| Arc::ptr_eq(waiter, &self.waiter)));
        by.ahead = position.map(|position| position as u32 + 1);
        by
    }

    pub(crate) fn is_head(&self) -> bool {
        self.waiter.is_head.load(Ordering::Acquire)
    }

    /// Notes that this waiter was served: `claim` holds the lock on `session`.
    pub(crate) fn grant_to(self, claim: &Claim, session: &Session) {
        if let Some(queue) = locked(&self.queues.0).get_mut(&self.name) {
            queue.holder = Some((claim.clone(), session.clone()));
        }
    }
}

/// Description of a holder of this process.
pub(crate) fn held_by(claim: &Claim) -> HeldBy {
    let mut by = HeldBy::holder(claim.holder());
    by.info = Some(claim.info().clone());
    by
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut queues = locked(&self.queues.0);
        let Some(queue) = queues.get_mut(&self.name) else { return };
        queue.waiters.retain(|waiter| !Arc::ptr_eq(waiter, &self.waiter));
        match queue.waiters.front() {
            Some(head) if !head.is_head.swap(true, Ordering::AcqRel) => head.wakeup.notify_one(),
            Some(_) => {}
            None => {
                queues.remove(&self.name);
            }
        }
    }
}
