//! [`Timers`]: which session is due next.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::contract::Session;
use crate::words::Moment;

/// When a session is looked at, and a number that no other has.
type Tick = (Moment, u64);

/// The sessions by when they are to be looked at. A session that is removed leaves nothing behind.
#[derive(Default)]
pub(crate) struct Timers {
    /// Those of one lease that need no look before the engine's task looks by itself, and get their place in the queue
    /// then: most leases are given back before, and never need one.
    unplanned: Vec<Session>,
    queue: BTreeMap<Tick, Session>,
    /// Where each session is in the queue. It is kept here, since engines that share a store share its sessions.
    ticks: HashMap<Session, Tick>,
    added: u64,
    /// When the engine's task will look by itself.
    wakes_at: Option<Moment>,
}

/// So many are fresh at most.
const MAX_UNPLANNED: usize = 64;

impl Timers {
    /// Looks at `session` from now on, unless it is looked at early enough; gives whether the engine must be told.
    pub(crate) fn keep(&mut self, session: &Session) -> bool {
        let at = Self::next_check(session);
        if session.only_claim().is_some() && self.wakes_at.is_some_and(|looks_at| looks_at <= at) {
            let sooner = self.unplanned.len() == MAX_UNPLANNED && self.plan_all();
            self.unplanned.push(session.clone());
            return sooner;
        }
        let planned = self.ticks.get(session).copied();
        match planned {
            // A shared session that carried nothing was left to expire; now it carries something again.
            Some((planned, _)) if planned <= at => false,
            _ => self.plan(session),
        }
    }

    /// Looks at `session` at its next time; gives whether the engine must be told.
    pub(crate) fn plan(&mut self, session: &Session) -> bool {
        let at = Self::next_check(session);
        self.remove(session);
        self.added += 1;
        let tick = (at, self.added);
        self.ticks.insert(session.clone(), tick);
        self.queue.insert(tick, session.clone());
        let sooner = self.wakes_at.is_none_or(|looks_at| at < looks_at);
        if sooner {
            self.wakes_at = Some(at);
        }
        sooner
    }

    /// As [`Timers::plan`], but only if it is in the queue: a session that was let go stays away.
    pub(crate) fn replan(&mut self, session: &Session) -> bool {
        (self.unplanned.contains(session) || self.ticks.contains_key(session)) && self.plan(session)
    }

    /// Gives whether the engine must be told: one of them may have ended meanwhile.
    fn plan_all(&mut self) -> bool {
        std::mem::take(&mut self.unplanned).iter().fold(false, |sooner, session| self.plan(session) | sooner)
    }

    fn next_check(session: &Session) -> Moment {
        let deadline = session.deadline().moment();
        if session.is_renewed() { deadline.min(session.schedule().due(session.ttl())) } else { deadline }
    }

    pub(crate) fn remove(&mut self, session: &Session) {
        if let Some(at) = self.unplanned.iter().rposition(|fresh| fresh == session) {
            self.unplanned.swap_remove(at);
        } else if let Some(tick) = self.ticks.remove(session) {
            self.queue.remove(&tick);
        }
    }

    /// The sessions whose time has come. If there are any, those that would follow within a twentieth of their TTL
    /// come along, so that renewals travel together. They stay in the queue until they are planned anew or removed.
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

    /// When to look next; the engine's task promises to. With nothing to look at, it looks when it was going to: a task
    /// that was told of every lease that came and went would cost more than the leases do.
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
        let mut told = 0;
        for _ in 0..100 {
            let session = session(&clock, Duration::from_secs(30));
            if timers.keep(&session) {
                told += 1;
                assert!(timers.next(clock.now()).is_some());
            }
            timers.remove(&session);
            // Whenever its task looks, there is nothing; and it will look again when it was going to.
            assert!(timers.next(clock.now()).is_some());
        }
        assert_eq!(told, 1);
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
        let fresh = session(&clock, Duration::from_secs(30));
        timers.keep(&fresh);
        fresh.schedule().request_sent(clock.now());
        fresh.schedule().request_ended(false, None);
        assert!(!timers.replan(&fresh), "the other is still looked at before");
        timers.remove(&fresh);
        assert!(!timers.replan(&fresh), "it was let go");
        assert_eq!(timers.due(clock.now().after(Duration::from_secs(60))).len(), 1);
    }

    #[test]
    fn the_engine_is_told_of_a_fresh_lease_that_ended_before_it_looks() {
        let (clock, mut timers) = (Clock::system(), Timers::default());
        timers.keep(&session(&clock, Duration::from_secs(1)));
        let fresh: Vec<_> = (0..MAX_UNPLANNED).map(|_| session(&clock, Duration::from_secs(30))).collect();
        assert!(fresh.iter().all(|session| !timers.keep(session)));
        fresh[0].end(crate::LossReason::NotHeld);
        // It is planned, to make room, for a moment at which the engine does not look unless it is told.
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
