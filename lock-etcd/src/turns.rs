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
pub(crate) const UNDER_WAY: usize = 128;

/// A bound on what is under way at once. Who comes when all turns are taken waits for one, in the order of coming.
///
/// A turn is had and waited for by futures of callers, who may stop polling them. So a turn that lasts longer than any call
/// is passed on, and who has waited for longer than it would is passed over. A semaphore does neither.
#[derive(Debug)]
pub(crate) struct Turns(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    waiting: VecDeque<Arc<Waiter>>,
    /// Those that are taken, and some that are over, the oldest first.
    taken: VecDeque<Arc<Taken>>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn {
    turns: Arc<Mutex<State>>,
    taken: Arc<Taken>,
}

#[derive(Debug)]
struct Taken {
    since: Instant,
    over: AtomicBool,
}

/// Who waits for a turn.
#[derive(Debug)]
struct Waiter {
    until: Instant,
    called: Notify,
    given: Mutex<Given>,
}

#[derive(Debug)]
enum Given {
    Nothing,
    Turn(Turn),
    /// It waits no more.
    Gone,
}

/// A place among those who wait. Dropped, it is given up, and a turn that it was given goes to the next.
struct Place(Arc<Waiter>);

impl Turns {
    pub(crate) fn new() -> Turns {
        Turns(Arc::new(Mutex::new(State { free: UNDER_WAY, waiting: VecDeque::new(), taken: VecDeque::new() })))
    }

    /// A turn, if one is free now.
    pub(crate) fn now(&self) -> Option<Turn> {
        let mut state = locked(&self.0);
        state.free = state.free.checked_sub(1)?;
        Some(state.take(&self.0))
    }

    /// A turn, when one is free; `None` if that takes longer than `patience`. No call lasts longer than `longest`.
    pub(crate) async fn next(&self, patience: Duration, longest: Duration) -> Option<Turn> {
        self.pass_on(longest);
        if let Some(turn) = self.now() {
            return Some(turn);
        }
        let until = Instant::now() + patience;
        let waiter = Arc::new(Waiter { until, called: Notify::new(), given: Mutex::new(Given::Nothing) });
        let place = Place(waiter.clone());
        locked(&self.0).wait(waiter, &self.0);
        // Where it is not called in time, it may have been given one all the same.
        _ = tokio::time::timeout(patience, place.0.called.notified()).await;
        place.leave()
    }

    /// Passes the turns on that have lasted longer than any call.
    fn pass_on(&self, longest: Duration) {
        let mut state = locked(&self.0);
        while let Some(taken) = state.taken.front().cloned() {
            if !taken.is_over() && taken.since.elapsed() <= longest {
                return;
            }
            state.taken.pop_front();
            if taken.ends() {
                state.give_back(&self.0);
            }
        }
    }
}

impl State {
    /// A turn is taken, which was free.
    fn take(&mut self, turns: &Arc<Mutex<State>>) -> Turn {
        let taken = Arc::new(Taken { since: Instant::now(), over: AtomicBool::new(false) });
        if self.taken.len() >= 2 * UNDER_WAY {
            self.taken.retain(|taken| !taken.is_over());
        }
        self.taken.push_back(taken.clone());
        Turn { turns: turns.clone(), taken }
    }

    /// A turn is over: it goes to the first who still waits.
    fn give_back(&mut self, turns: &Arc<Mutex<State>>) {
        let now = Instant::now();
        while let Some(waiter) = self.waiting.pop_front() {
            let mut given = locked(&waiter.given);
            if matches!(*given, Given::Nothing) && now < waiter.until {
                *given = Given::Turn(self.take(turns));
                drop(given);
                waiter.called.notify_one();
                return;
            }
        }
        self.free += 1;
    }

    fn wait(&mut self, waiter: Arc<Waiter>, turns: &Arc<Mutex<State>>) {
        self.waiting.push_back(waiter);
        // One may have become free since the look.
        if let Some(free) = self.free.checked_sub(1) {
            self.free = free;
            self.give_back(turns);
        }
    }
}

impl Taken {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Ends it; false if it was over before.
    fn ends(&self) -> bool {
        !self.over.swap(true, Ordering::AcqRel)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.taken.ends() {
            locked(&self.turns).give_back(&self.turns);
        }
    }
}

impl Place {
    /// Waits no more; gives the turn that it was given, if it was.
    fn leave(&self) -> Option<Turn> {
        match std::mem::replace(&mut *locked(&self.0.given), Given::Gone) {
            Given::Turn(turn) => Some(turn),
            Given::Nothing | Given::Gone => None,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(self.leave());
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
        let turns = Turns::new();
        let taken: Vec<_> = (0..UNDER_WAY).map(|_| turns.now().expect("a free turn")).collect();
        assert!(turns.now().is_none());
        assert!(turns.next(PATIENCE, Duration::from_secs(60)).await.is_none());
        let passed_on = turns.next(PATIENCE, Duration::ZERO).await;
        assert!(passed_on.is_some());
        drop((taken, passed_on));
        let taken: Vec<_> = (0..UNDER_WAY).map(|_| turns.now().expect("a free turn")).collect();
        assert!(turns.now().is_none(), "a turn that was passed on is given back once");
        drop(taken);
    }

    #[tokio::test]
    async fn turns_that_come_and_go_leave_nothing() {
        let turns = Turns::new();
        for _ in 0..10 * UNDER_WAY {
            drop(turns.now().expect("a free turn"));
        }
        assert!(locked(&turns.0).taken.len() <= 2 * UNDER_WAY);
    }

    #[tokio::test]
    async fn a_turn_goes_to_the_first_who_still_waits() {
        let turns = Turns::new();
        let mut taken: Vec<_> = (0..UNDER_WAY).map(|_| turns.now().expect("a free turn")).collect();
        let longest = Duration::from_secs(60);
        let mut gone = Box::pin(turns.next(longest, longest));
        let mut unpolled = Box::pin(turns.next(PATIENCE, longest));
        let mut first = Box::pin(turns.next(longest, longest));
        let mut second = Box::pin(turns.next(longest, longest));
        for waiter in [&mut gone, &mut unpolled, &mut first, &mut second] {
            assert!(is_pending(waiter).await);
        }
        drop(gone);
        tokio::time::sleep(2 * PATIENCE).await;
        drop(taken.pop());
        assert!(is_pending(&mut second).await, "it came later");
        let turn = first.await.expect("a turn");
        drop(turn);
        assert!(second.await.is_some());
        assert!(unpolled.await.is_none());
    }
}
