//! [`Timers`]: the order in which sessions are due.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::contract::Session;
use crate::words::Moment;

/// Moment of a session's next check, and a number that makes it unique.
type Tick = (Moment, u64);

/// The sessions, ordered by their next check. A session that is removed leaves nothing behind.
#[derive(Default)]
pub(crate) struct Timers {
    /// Sessions of one lease that were added since the task last ran and are not yet in `queue`.
    /// The next wake-up is early enough for them, and most are released before it.
    unplanned: Vec<Session>,
    queue: BTreeMap<Tick, Session>,
    /// The tick of each session in the queue. It is not kept in the session, since engines that
    /// share a store share its sessions.
    ticks: HashMap<Session, Tick>,
    added: u64,
    /// Moment of the task's next wake-up.
    wakes_at: Option<Moment>,
}

/// Maximum number of sessions in `unplanned`.
const MAX_UNPLANNED: usize = 64;

impl Timers {
    /// Adds `session`, unless it is already checked early enough. Returns true if the engine's task
    /// must be woken.
    pub(crate) fn keep(&mut self, session: &Session) -> bool {
        let at = Self::next_check(session);
        if session.only_claim().is_some() && self.wakes_at.is_some_and(|wakes_at| wakes_at <= at) {
            let must_wake = self.unplanned.len() == MAX_UNPLANNED && self.plan_all();
            self.unplanned.push(session.clone());
            return must_wake;
        }
        let planned = self.ticks.get(session).copied();
        match planned {
            // A shared session that carried no claim was left to expire; now it carries one again.
            Some((planned, _)) if planned <= at => false,
            _ => self.plan(session),
        }
    }

    /// Queues the next check of `session`. Returns true if the engine's task must be woken.
    pub(crate) fn plan(&mut self, session: &Session) -> bool {
        let at = Self::next_check(session);
        self.remove(session);
        self.added += 1;
        let tick = (at, self.added);
        self.ticks.insert(session.clone(), tick);
        self.queue.insert(tick, session.clone());
        let must_wake = self.wakes_at.is_none_or(|wakes_at| at < wakes_at);
        if must_wake {
            self.wakes_at = Some(at);
        }
        must_wake
    }

    /// As [`Timers::plan`], but only for a session that is known: one that was removed stays
    /// removed.
    pub(crate) fn replan(&mut self, session: &Session) -> bool {
        (self.unplanned.contains(session) || self.ticks.contains_key(session)) && self.plan(session)
    }

    /// Queues all of `unplanned`. Returns true if the engine's task must be woken: one of them may
    /// have ended meanwhile.
    fn plan_all(&mut self) -> bool {
        std::mem::take(&mut self.unplanned).iter().fold(false, |must_wake, session| self.plan(session) | must_wake)
    }

    fn next_check(session: &Session) -> Moment {
        let deadline = session.deadline().moment();
        if session.is_renewed() { deadline.min(session.schedule().due(session.ttl())) } else { deadline }
    }

    pub(crate) fn remove(&mut self, session: &Session) {
        if let Some(at) = self.unplanned.iter().rposition(|unplanned| unplanned == session) {
            self.unplanned.swap_remove(at);
        } else if let Some(tick) = self.ticks.remove(session) {
            self.queue.remove(&tick);
        }
    }

    /// The sessions that are due. If there are any, sessions that would be due within a twentieth
    /// of their TTL are included, so that renewals share a batch. All of them stay in the queue
    /// until they are planned again or removed.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Session> {
        self.plan_all();
        let mut due = Vec::new();
        let mut widest = Duration::ZERO;
        for ((at, _), session) in &self.queue {
            let early = at.since(now);
            if early > widest {
                break;
            }
            let slack = if session.is_renewed() { session.ttl() / 20 } else { Duration::ZERO };
            if early <= slack {
                widest = widest.max(slack);
                due.push(session.clone());
            }
        }
        due
    }

    /// Moment of the next wake-up, which the engine's task must keep. If the queue is empty, the
    /// planned wake-up stays: waking the task for every lease that comes and goes would cost more
    /// than the leases do.
    pub(crate) fn next(&mut self, now: Moment) -> Option<Moment> {
        self.plan_all();
        let first = self.queue.first_key_value().map(|((at, _), _)| *at);
        self.wakes_at = first.or(self.wakes_at.filter(|at| *at > now));
        self.wakes_at
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.unplanned.is_empty() && self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Claim;
    use crate::words::{Clock, LockName};

    fn session(clock: &Clock, ttl: Duration) -> Session {
        let claim = Claim::new(LockName::new("job").expect("a name"), ttl);
        Session::single(claim, clock, clock.now(), ttl)
    }

    #[test]
    fn the_engine_is_told_of_the_first_lease_and_not_of_each_that_comes_and_goes() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        let mut wakeups = 0;
        for _ in 0..100 {
            let session = session(&clock, Duration::from_secs(30));
            if timers.keep(&session) {
                wakeups += 1;
                assert!(timers.next(clock.now()).is_some());
            }
            timers.remove(&session);
            // Whenever the task runs, the queue is empty, and the planned wake-up stays.
            assert!(timers.next(clock.now()).is_some());
        }
        assert_eq!(wakeups, 1);
    }

    #[test]
    fn the_engine_is_told_of_a_lease_that_is_due_before_it_looks() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        let long = session(&clock, Duration::from_secs(30));
        assert!(timers.keep(&long));
        timers.remove(&long);
        let planned = timers.next(clock.now());
        assert!(timers.keep(&session(&clock, Duration::from_secs(3))));
        assert!(timers.next(clock.now()) < planned);
    }

    #[test]
    fn a_lease_that_stays_is_looked_at_when_it_is_due_however_many_come_and_go() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        let first = session(&clock, Duration::from_secs(1));
        assert!(timers.keep(&first));
        let stay: Vec<_> = (0..3 * MAX_UNPLANNED).map(|_| session(&clock, Duration::from_secs(30))).collect();
        for session in &stay {
            assert!(!timers.keep(session), "the engine looks before");
        }
        timers.remove(&first);
        let (gone, stay) = stay.split_at(MAX_UNPLANNED / 2);
        gone.iter().for_each(|session| timers.remove(session));
        let at = Timers::next_check(stay.last().expect("one stays"));
        let due = timers.due(at);
        assert_eq!(due.len(), stay.len());
        assert!(stay.iter().all(|session| due.contains(session)));
        stay.iter().for_each(|session| timers.remove(session));
        assert!(timers.is_empty());
    }

    #[test]
    fn a_lease_that_was_just_granted_can_be_renewed_and_given_back() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        timers.keep(&session(&clock, Duration::from_secs(1)));
        let unplanned = session(&clock, Duration::from_secs(30));
        timers.keep(&unplanned);
        unplanned.schedule().request_sent(clock.now());
        unplanned.schedule().request_ended(false, None);
        assert!(!timers.replan(&unplanned), "the other is still looked at before");
        timers.remove(&unplanned);
        assert!(!timers.replan(&unplanned), "it was let go");
        assert_eq!(timers.due(clock.now().after(Duration::from_secs(60))).len(), 1);
    }

    #[test]
    fn the_engine_is_told_of_a_fresh_lease_that_ended_before_it_looks() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        timers.keep(&session(&clock, Duration::from_secs(1)));
        let unplanned: Vec<_> = (0..MAX_UNPLANNED).map(|_| session(&clock, Duration::from_secs(30))).collect();
        assert!(unplanned.iter().all(|session| !timers.keep(session)));
        unplanned[0].end(crate::LossReason::NotHeld);
        // It is planned, to make room, for a moment before the task's next wake-up.
        assert!(timers.keep(&session(&clock, Duration::from_secs(30))));
    }

    #[test]
    fn an_engine_with_nothing_to_do_does_not_look_for_ever() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        let last = session(&clock, Duration::from_secs(30));
        timers.keep(&last);
        timers.remove(&last);
        let at = timers.next(clock.now()).expect("it was going to look");
        assert_eq!(timers.next(at), None);
    }
}
