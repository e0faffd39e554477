//! [`Turns`]: a bound on what is under way at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How many calls of one kind are under way at once: enough to keep a server busy from 40 ms away (3,200 calls a second).
/// More would not be answered sooner: etcd applies one after the other, and beyond 5,000 of all its clients it turns
/// everybody away, those who keep their locks too. On a busy machine twice as many cost a holder its lock.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// A bound on what is under way at once. Who comes when all turns are taken waits for one, in the order of coming.
///
/// A turn is had and waited for by futures of callers, who may stop polling them. So a turn that lasts longer than any call
/// is passed on, and who has waited for longer than it would is passed over. A semaphore does neither.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: VecDeque<Arc<Waiter>>,
    /// Those that are taken, and some that are over, the oldest first.
    issued: VecDeque<Arc<IssuedPermit>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limit: Arc<Mutex<State>>,
    issued: Arc<IssuedPermit>,
}

#[derive(Debug)]
struct IssuedPermit {
    since: Instant,
    ended: AtomicBool,
}

/// Who waits for a turn.
#[derive(Debug)]
struct Waiter {
    deadline: Instant,
    woken: Notify,
    handover: Mutex<Handover>,
}

#[derive(Debug)]
enum Handover {
    Pending,
    Permit(Permit),
    /// It waits no more.
    Abandoned,
}

/// A place among those who wait. Dropped, it is given up, and a turn that it was given goes to the next.
struct Ticket(Arc<Waiter>);

impl ConcurrencyLimit {
    pub(crate) fn new() -> ConcurrencyLimit {
        ConcurrencyLimit(Arc::new(Mutex::new(State {
            free: MAX_IN_FLIGHT,
            waiting: VecDeque::new(),
            issued: VecDeque::new(),
        })))
    }

    /// A turn, if one is free now.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let mut state = locked(&self.0);
        state.free = state.free.checked_sub(1)?;
        Some(state.issue(&self.0))
    }

    /// A turn, when one is free; `None` if that takes longer than `patience`. No call lasts longer than `longest`.
    pub(crate) async fn acquire(&self, patience: Duration, longest: Duration) -> Option<Permit> {
        self.reclaim_overdue(longest);
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        let deadline = Instant::now() + patience;
        let waiter = Arc::new(Waiter { deadline, woken: Notify::new(), handover: Mutex::new(Handover::Pending) });
        let entry = Ticket(waiter.clone());
        locked(&self.0).enqueue(waiter, &self.0);
        // Where it is not called in time, it may have been given one all the same.
        _ = tokio::time::timeout(patience, entry.0.woken.notified()).await;
        entry.abandon()
    }

    /// Passes the turns on that have lasted longer than any call.
    fn reclaim_overdue(&self, longest: Duration) {
        let mut state = locked(&self.0);
        while let Some(issued) = state.issued.front().cloned() {
            if !issued.is_ended() && issued.since.elapsed() <= longest {
                return;
            }
            state.issued.pop_front();
            if issued.end() {
                state.hand_over(&self.0);
            }
        }
    }
}

impl State {
    /// A turn is taken, which was free.
    fn issue(&mut self, limit: &Arc<Mutex<State>>) -> Permit {
        let issued = Arc::new(IssuedPermit { since: Instant::now(), ended: AtomicBool::new(false) });
        if self.issued.len() >= 2 * MAX_IN_FLIGHT {
            self.issued.retain(|issued| !issued.is_ended());
        }
        self.issued.push_back(issued.clone());
        Permit { limit: limit.clone(), issued }
    }

    /// A turn is over: it goes to the first who still waits.
    fn hand_over(&mut self, limit: &Arc<Mutex<State>>) {
        let now = Instant::now();
        while let Some(waiter) = self.waiting.pop_front() {
            let mut handover = locked(&waiter.handover);
            if matches!(*handover, Handover::Pending) && now < waiter.deadline {
                *handover = Handover::Permit(self.issue(limit));
                drop(handover);
                waiter.woken.notify_one();
                return;
            }
        }
        self.free += 1;
    }

    fn enqueue(&mut self, waiter: Arc<Waiter>, limit: &Arc<Mutex<State>>) {
        self.waiting.push_back(waiter);
        // One may have become free since the look.
        if let Some(free) = self.free.checked_sub(1) {
            self.free = free;
            self.hand_over(limit);
        }
    }
}

impl IssuedPermit {
    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Ends it; false if it was over before.
    fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.issued.end() {
            locked(&self.limit).hand_over(&self.limit);
        }
    }
}

impl Ticket {
    /// Waits no more; gives the turn that it was given, if it was.
    fn abandon(&self) -> Option<Permit> {
        match std::mem::replace(&mut *locked(&self.0.handover), Handover::Abandoned) {
            Handover::Permit(permit) => Some(permit),
            Handover::Pending | Handover::Abandoned => None,
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        drop(self.abandon());
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(50);

    /// Polls it once.
    async fn is_pending<T>(future: impl Future<Output = T> + Unpin) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn a_turn_that_lasts_longer_than_any_call_is_passed_on_and_others_are_not() {
        let limit = ConcurrencyLimit::new();
        let issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free turn")).collect();
        assert!(limit.try_acquire().is_none());
        assert!(limit.acquire(PATIENCE, Duration::from_secs(60)).await.is_none());
        let reclaimed = limit.acquire(PATIENCE, Duration::ZERO).await;
        assert!(reclaimed.is_some());
        drop((issued, reclaimed));
        let issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free turn")).collect();
        assert!(limit.try_acquire().is_none(), "a turn that was passed on is given back once");
        drop(issued);
    }

    #[tokio::test]
    async fn turns_that_come_and_go_leave_nothing() {
        let limit = ConcurrencyLimit::new();
        for _ in 0..10 * MAX_IN_FLIGHT {
            drop(limit.try_acquire().expect("a free turn"));
        }
        assert!(locked(&limit.0).issued.len() <= 2 * MAX_IN_FLIGHT);
    }

    #[tokio::test]
    async fn a_turn_goes_to_the_first_who_still_waits() {
        let limit = ConcurrencyLimit::new();
        let mut issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free turn")).collect();
        let longest = Duration::from_secs(60);
        let mut gone = Box::pin(limit.acquire(longest, longest));
        let mut unpolled = Box::pin(limit.acquire(PATIENCE, longest));
        let mut first = Box::pin(limit.acquire(longest, longest));
        let mut second = Box::pin(limit.acquire(longest, longest));
        for waiter in [&mut gone, &mut unpolled, &mut first, &mut second] {
            assert!(is_pending(waiter).await);
        }
        drop(gone);
        tokio::time::sleep(2 * PATIENCE).await;
        drop(issued.pop());
        assert!(is_pending(&mut second).await, "it came later");
        let permit = first.await.expect("a turn");
        drop(permit);
        assert!(second.await.is_some());
        assert!(unpolled.await.is_none());
    }
}
