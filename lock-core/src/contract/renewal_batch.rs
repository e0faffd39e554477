//! [`RenewalBatch`]: a batch of renewals, answered one by one.

use std::fmt;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use super::claim::Claim;
use super::session::Session;
use crate::sync::locked;
use crate::words::{Clock, Error, LossReason, Moment};

/// A batch of renewals, one entry per session. A store answers each entry as soon as it knows the
/// answer, so that a call that hangs loses no earlier answer. An entry without an answer is
/// unknown: it neither extends nor ends a lease, and is retried.
pub struct RenewalBatch {
    sent: Moment,
    clock: Clock,
    entries: Vec<Renewal>,
    failure: Mutex<Option<Error>>,
}

/// One entry of [`RenewalBatch`].
pub struct Renewal {
    sent: Moment,
    session: Session,
    outcome: OnceLock<RenewalOutcome>,
}

/// A store's answer to one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewalOutcome {
    /// It is held, and kept for this long after this batch was sent.
    HeldFor(Duration),
    /// It is held, and kept for this long after an earlier moment, which was read from the clock
    /// before the heartbeat was sent.
    HeldSince(Moment, Duration),
    /// The holder does not hold it. This is final.
    NotHeld,
}

impl RenewalBatch {
    /// A batch of these sessions, sent now.
    pub(crate) fn of_sessions(clock: &Clock, sessions: impl IntoIterator<Item = Session>) -> RenewalBatch {
        let sent = clock.now();
        let entries = sessions.into_iter().map(|session| Renewal { sent, session, outcome: OnceLock::new() }).collect();
        RenewalBatch { sent, clock: clock.clone(), entries, failure: Mutex::default() }
    }

    /// A batch of leases with TTLs of their own, sent now; for tests of a store.
    pub fn new(clock: &Clock, claims: impl IntoIterator<Item = Claim>) -> RenewalBatch {
        let of_one = |claim: Claim| Session::single(claim.clone(), clock, clock.now(), claim.ttl());
        RenewalBatch::of_sessions(clock, claims.into_iter().map(of_one))
    }

    /// The entries.
    pub fn iter(&self) -> std::slice::Iter<'_, Renewal> {
        self.entries.iter()
    }

    /// The entries of leases with TTLs of their own.
    pub fn leases(&self) -> impl Iterator<Item = (&Renewal, &Claim)> {
        self.iter().filter_map(|entry| entry.session.only_claim().map(|claim| (entry, claim)))
    }

    /// The entries of sessions that carry leases: [`kit::Sessions`](crate::kit::Sessions) answers
    /// them, in the only order that is safe. A store without sessions has none.
    pub fn sessions(&self) -> impl Iterator<Item = (&Renewal, &Session)> {
        self.iter().filter(|entry| entry.session.only_claim().is_none()).map(|entry| (entry, &entry.session))
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Moment at which this batch was sent: before it was given to the store.
    pub fn sent(&self) -> Moment {
        self.sent
    }

    /// The clock of these leases.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Notes why entries stay unanswered, for people. The first reason stays.
    pub(crate) fn note_failure(&self, error: Error) {
        for entry in self.entries.iter().filter(|entry| entry.outcome().is_none()) {
            entry.session.schedule().note_failure(error.clone());
        }
        locked(&self.failure).get_or_insert(error);
    }

    /// Reason why entries stayed unanswered, if there is one.
    pub(crate) fn failure(&self) -> Option<Error> {
        locked(&self.failure).clone()
    }
}

impl<'a> IntoIterator for &'a RenewalBatch {
    type Item = &'a Renewal;
    type IntoIter = std::slice::Iter<'a, Renewal>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Renewal {
    /// Answers this entry. The answer takes effect at once, and only the first one counts.
    pub fn answer(&self, renewed: RenewalOutcome) {
        if self.outcome.set(renewed).is_err() {
            return;
        }
        match renewed {
            RenewalOutcome::HeldFor(ttl) => self.session.confirm(self.sent, ttl),
            // A heartbeat that was sent after this batch cannot be counted from a moment before it;
            // the moment of the batch is always safe.
            RenewalOutcome::HeldSince(sent, ttl) => self.session.confirm(sent.min(self.sent), ttl),
            RenewalOutcome::NotHeld => self.session.end(match self.session.only_claim() {
                Some(_) => LossReason::NotHeld,
                None => LossReason::SessionEnded,
            }),
        }
    }

    /// Answers that the holder does not hold it, with the reason for people.
    pub fn lost(&self, why: Error) {
        self.session.schedule().note_failure(why);
        self.answer(RenewalOutcome::NotHeld);
    }

    /// Reports that the session no longer has the entry of this claim: that one lease is lost.
    pub fn not_held(&self, claim: &Claim) {
        claim.lose(LossReason::NotHeld);
    }

    /// The answer, if the store gave one.
    pub fn outcome(&self) -> Option<RenewalOutcome> {
        self.outcome.get().copied()
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

impl fmt::Debug for RenewalBatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.entries).finish()
    }
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewal").field("session", &self.session).field("answer", &self.outcome()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::locks::Validity;
    use crate::words::{ErrorKind, LockName};

    #[test]
    fn a_lease_knows_why_its_last_renewal_was_not_confirmed() {
        let clock = Clock::system();
        let claim = Claim::new(LockName::new("job").expect("a name"), Duration::from_secs(30));
        let batch = RenewalBatch::new(&clock, [claim.clone()]);
        let entry = batch.iter().next().expect("one");
        let validity = Validity::new(claim, entry.session().clone());
        assert!(validity.renewal_failure().is_none());
        batch.note_failure(Error::refused(ErrorKind::Unavailable, "the disk is full"));
        assert_eq!(validity.renewal_failure().expect("it failed").to_string(), "the disk is full");
        entry.answer(RenewalOutcome::HeldFor(Duration::from_secs(30)));
        assert!(validity.renewal_failure().is_none(), "it was confirmed since");
        batch.note_failure(Error::refused(ErrorKind::Unavailable, "others stay unanswered"));
        assert!(validity.renewal_failure().is_none());
    }
}
