//! [`Schedule`]: when a session is renewed next.

use std::time::Duration;

use crate::words::{Error, Moment};

/// When one session is looked at next.
///
/// A lease is renewed a third of its TTL after the last confirmed renewal was *sent*, so that two more tries fit
/// before its end. While a call is under way it is asked again after a sixth of the TTL (the call that hangs is not
/// given up: its answer counts if it still comes); after a call that failed, after a twentieth.
pub(crate) struct Schedule {
    renewed: Moment,
    asked: Moment,
    in_flight: u32,
    failures: u32,
    failure: Option<Error>,
}

impl Schedule {
    pub(crate) fn renewed_at(sent: Moment) -> Schedule {
        Schedule { renewed: sent, asked: sent, in_flight: 0, failures: 0, failure: None }
    }

    pub(crate) fn confirmed(&mut self, sent: Moment) {
        self.renewed = self.renewed.max(sent);
        self.failures = 0;
        self.failure = None;
    }

    pub(crate) fn request_sent(&mut self, now: Moment) {
        self.asked = now;
        self.in_flight += 1;
    }

    /// A call has ended, which brought an answer or `failure`.
    pub(crate) fn request_ended(&mut self, answered: bool, failure: Option<&Error>) {
        self.in_flight -= 1;
        if !answered {
            self.failures += 1;
            self.failure = failure.cloned();
        }
    }

    /// A call that is still under way will bring no answer.
    pub(crate) fn note_failure(&mut self, error: Error) {
        self.failure = Some(error);
    }

    /// Why the last call brought no answer, if none came since the last confirmed renewal.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.clone()
    }

    /// Whether a call is under way that has brought no answer yet.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// How many calls in a row brought no answer.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// When the next renewal is due.
    pub(crate) fn due(&self, ttl: Duration) -> Moment {
        let due = self.renewed.after(ttl / 3);
        match (self.in_flight, self.failures) {
            (0, 0) => due,
            (0, _) => due.max(self.asked.after(ttl / 20)),
            _ => due.max(self.asked.after(ttl / 6)),
        }
    }
}
