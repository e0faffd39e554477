//! [`Schedule`] of the renewals of one session.

use std::time::Duration;

use crate::words::{Error, Moment};

/// Schedule of the renewals of one session.
///
/// A lease is renewed a third of its TTL after the last confirmed renewal was *sent*, so that two
/// more attempts fit before its end. While a call is in flight, it is retried after a sixth of the
/// TTL; the call that hangs is not abandoned, and its answer still counts. After a failed call it
/// is retried after a twentieth.
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

    /// Notes the end of a call, with an answer or with `failure`.
    pub(crate) fn request_ended(&mut self, answered: bool, failure: Option<&Error>) {
        self.in_flight -= 1;
        if !answered {
            self.failures += 1;
            self.failure = failure.cloned();
        }
    }

    /// Notes that a call that is still in flight will bring no answer.
    pub(crate) fn note_failure(&mut self, error: Error) {
        self.failure = Some(error);
    }

    /// Failure of the last call; `None` after a confirmed renewal.
    pub(crate) fn failure(&self) -> Option<Error> {
        self.failure.clone()
    }

    /// True if a call is in flight.
    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Number of calls in a row without an answer.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Moment at which the next renewal is due.
    pub(crate) fn due(&self, ttl: Duration) -> Moment {
        let due = self.renewed.after(ttl / 3);
        match (self.in_flight, self.failures) {
            (0, 0) => due,
            (0, _) => due.max(self.asked.after(ttl / 20)),
            _ => due.max(self.asked.after(ttl / 6)),
        }
    }
}
