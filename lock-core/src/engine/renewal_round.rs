//! [`RenewalRound`]: one renewal call, for one batch.

use std::sync::Arc;

use super::call::catch_panic;
use super::shared::Engine;
use crate::contract::{RenewalBatch, RenewalOutcome, Session};
use crate::observe;
use crate::sync::locked;
use crate::words::{Error, Result};

/// One renewal call. While it is in flight, and after it ends without an answer, its sessions are
/// retried later than others.
pub(crate) struct RenewalRound {
    engine: Arc<Engine>,
    batch: RenewalBatch,
}

impl RenewalRound {
    pub(crate) fn begin(engine: &Arc<Engine>, sessions: Vec<Session>) -> RenewalRound {
        let now = engine.clock.now();
        let mut timers = locked(&engine.timers);
        for session in &sessions {
            session.schedule().request_sent(now);
            timers.replan(session);
        }
        drop(timers);
        RenewalRound { engine: engine.clone(), batch: RenewalBatch::of_sessions(&engine.clock, sessions) }
    }

    /// Makes the call. Every answer takes effect at once, even if this future is dropped before the
    /// call ends.
    pub(crate) async fn run(&mut self) {
        // After the end of their validity an answer would come too late.
        let valid = self.batch.iter().map(|entry| entry.session().remaining()).max().unwrap_or_default();
        let limit = self.engine.call_timeout.min(valid);
        let renewing = catch_panic("a renewal", self.engine.store.renew(&self.batch));
        let renewed = tokio::time::timeout(limit, renewing).await;
        if let Err(error) = renewed.unwrap_or_else(|_| Err(self.engine.no_answer("renewing"))) {
            self.batch.note_failure(error);
        }
    }

    /// Reason why an entry has no answer, if one has none.
    pub(crate) fn unanswered(&self) -> Option<Error> {
        self.batch
            .iter()
            .any(|entry| entry.outcome().is_none())
            .then(|| self.batch.failure().unwrap_or_else(|| self.engine.no_answer("renewing")))
    }
}

impl Engine {
    /// Renews one session now, once.
    pub(crate) async fn renew_now(self: &Arc<Self>, session: &Session) -> Result<()> {
        let mut round = RenewalRound::begin(self, vec![session.clone()]);
        round.run().await;
        round.unanswered().map_or(Ok(()), Err)
    }
}

impl Drop for RenewalRound {
    fn drop(&mut self) {
        let mut unanswered = 0;
        let mut not_held = 0;
        let mut must_wake = false;
        let failure = self.unanswered();
        let mut timers = locked(&self.engine.timers);
        for entry in &self.batch {
            match entry.outcome() {
                // A lease that was released meanwhile needs no answer.
                None if entry.session().only_claim().is_some_and(|claim| claim.deadline().is_over()) => {}
                None => unanswered += 1,
                Some(RenewalOutcome::NotHeld) => not_held += 1,
                Some(_) => {}
            }
            entry.session().schedule().request_ended(entry.outcome().is_some(), failure.as_ref());
            must_wake |= timers.replan(entry.session());
        }
        drop(timers);
        if unanswered > 0 {
            let outage = &self.engine.outage;
            outage.renewal_failed(unanswered, self.batch.len(), self.batch.failure().as_ref());
        } else {
            self.engine.outage.store_answered();
            observe::renewed(self.batch.len() - not_held, not_held);
        }
        if must_wake {
            self.engine.work.notify_one();
        }
    }
}
