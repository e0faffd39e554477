//! [`ConcurrencyLimit`]: a limit on calls in flight.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::kit::locked;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Maximum number of calls of one kind in flight: enough to keep a server busy that is 40 ms away
/// (3,200 calls a second). More would not be faster. Etcd applies calls one after the other, and
/// beyond 5,000 from all clients it rejects every further one, renewals too. On a busy machine
/// twice as many cost a holder its lock.
pub(crate) const MAX_IN_FLIGHT: usize = 128;

/// A limit on calls in flight. A caller that finds no free permit waits for one, first come, first
/// served.
///
/// Permits are held and awaited by callers' futures, which may no longer be polled. So a permit
/// that is held for longer than any call lasts is reclaimed, and a waiter whose time is over is
/// skipped. A semaphore does neither.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: VecDeque<Arc<Waiter>>,
    /// The issued permits, and some that have ended, oldest first.
    issued: VecDeque<Arc<IssuedPermit>>,
}

/// The permission for one call in flight, until it is dropped.
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

/// A caller that waits for a permit.
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
    /// The caller no longer waits.
    Abandoned,
}

/// A place in the queue of waiters. When it is dropped, a permit that was handed over to it goes to
/// the next waiter.
struct Ticket(Arc<Waiter>);

impl ConcurrencyLimit {
    pub(crate) fn new() -> ConcurrencyLimit {
        let state = State { free: MAX_IN_FLIGHT, waiting: VecDeque::new(), issued: VecDeque::new() };
        ConcurrencyLimit(Arc::new(Mutex::new(state)))
    }

    /// A permit, if one is free now.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        let mut state = locked(&self.0);
        state.free = state.free.checked_sub(1)?;
        Some(state.issue(&self.0))
    }

    /// Waits for a permit; `None` if none is free within `timeout`. No call lasts longer than
    /// `longest`.
    pub(crate) async fn acquire(&self, timeout: Duration, longest: Duration) -> Option<Permit> {
        self.reclaim_overdue(longest);
        if let Some(permit) = self.try_acquire() {
            return Some(permit);
        }
        let deadline = Instant::now() + timeout;
        let waiter = Arc::new(Waiter { deadline, woken: Notify::new(), handover: Mutex::new(Handover::Pending) });
        let ticket = Ticket(waiter.clone());
        locked(&self.0).enqueue(waiter, &self.0);
        // After a time-out a permit may have been handed over all the same.
        _ = tokio::time::timeout(timeout, ticket.0.woken.notified()).await;
        ticket.abandon()
    }

    /// Reclaims the permits that have been held for longer than any call lasts.
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
    /// Issues a permit that was free.
    fn issue(&mut self, limit: &Arc<Mutex<State>>) -> Permit {
        let issued = Arc::new(IssuedPermit { since: Instant::now(), ended: AtomicBool::new(false) });
        if self.issued.len() >= 2 * MAX_IN_FLIGHT {
            self.issued.retain(|issued| !issued.is_ended());
        }
        self.issued.push_back(issued.clone());
        Permit { limit: limit.clone(), issued }
    }

    /// Hands a permit that has ended over to the first that still waits.
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
        // A permit may have become free since `try_acquire`.
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

    /// Ends it; false if it had ended before.
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
    /// Stops waiting; gives the permit, if one was handed over.
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

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(50);

    /// Polls a future once.
    async fn is_pending<T>(future: impl Future<Output = T> + Unpin) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = std::future::ready(()) => true,
        }
    }

    #[tokio::test]
    async fn a_permit_that_is_held_for_longer_than_any_call_is_reclaimed_and_others_are_not() {
        let limit = ConcurrencyLimit::new();
        let issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free permit")).collect();
        assert!(limit.try_acquire().is_none());
        assert!(limit.acquire(TIMEOUT, Duration::from_secs(60)).await.is_none());
        let reclaimed = limit.acquire(TIMEOUT, Duration::ZERO).await;
        assert!(reclaimed.is_some());
        drop((issued, reclaimed));
        let issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free permit")).collect();
        assert!(limit.try_acquire().is_none(), "a reclaimed permit is handed over once");
        drop(issued);
    }

    #[tokio::test]
    async fn ended_permits_leave_nothing() {
        let limit = ConcurrencyLimit::new();
        for _ in 0..10 * MAX_IN_FLIGHT {
            drop(limit.try_acquire().expect("a free permit"));
        }
        assert!(locked(&limit.0).issued.len() <= 2 * MAX_IN_FLIGHT);
    }

    #[tokio::test]
    async fn a_permit_goes_to_the_first_that_still_waits() {
        let limit = ConcurrencyLimit::new();
        let mut issued: Vec<_> = (0..MAX_IN_FLIGHT).map(|_| limit.try_acquire().expect("a free permit")).collect();
        let longest = Duration::from_secs(60);
        let mut gone = Box::pin(limit.acquire(longest, longest));
        let mut unpolled = Box::pin(limit.acquire(TIMEOUT, longest));
        let mut first = Box::pin(limit.acquire(longest, longest));
        let mut second = Box::pin(limit.acquire(longest, longest));
        for waiter in [&mut gone, &mut unpolled, &mut first, &mut second] {
            assert!(is_pending(waiter).await);
        }
        drop(gone);
        tokio::time::sleep(2 * TIMEOUT).await;
        drop(issued.pop());
        assert!(is_pending(&mut second).await, "its caller came later");
        let permit = first.await.expect("a permit");
        drop(permit);
        assert!(second.await.is_some());
        assert!(unpolled.await.is_none());
    }
}
