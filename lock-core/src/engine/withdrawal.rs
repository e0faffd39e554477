//! [`Withdrawal`]: releasing whatever a claim may hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::call::{boxed, catch_panic};
use super::shared::Engine;
use super::withdrawal_state::{Calls, WithdrawalState};
use crate::contract::{Claim, ReleaseOutcome};
use crate::observe;
use crate::words::{Error, Moment, Result};

/// Releases whatever a claim may hold: a lease, an entry in the queue, or what a request in flight
/// will still get.
///
/// It owns its data. If it is dropped before its end, its state goes back to the engine, which
/// continues the withdrawal. If the engine's runtime has ended, the state waits there for the next
/// one.
pub(crate) struct Withdrawal {
    engine: Arc<Engine>,
    state: WithdrawalState,
    /// True if it runs on the engine's own runtime: then only the end of that runtime drops it
    /// early.
    in_background: bool,
    done: bool,
}

/// First delay before a retry; it doubles each time.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(20);

impl Withdrawal {
    /// Starts to withdraw `claim` as part of the caller's own future.
    pub(crate) fn start(engine: &Arc<Engine>, claim: Claim) -> Withdrawal {
        let state = engine.begin_withdrawal(claim, None);
        Withdrawal { engine: engine.clone(), state, in_background: false, done: false }
    }

    pub(crate) fn resume(engine: &Arc<Engine>, state: WithdrawalState) -> Withdrawal {
        Withdrawal { engine: engine.clone(), state, in_background: true, done: false }
    }

    /// Makes one attempt, for the release of a guard. If the claim stays in doubt, the withdrawal
    /// continues in the background.
    pub(crate) async fn try_once(mut self) -> Result<ReleaseOutcome> {
        let released = self.attempt().await;
        self.done = match &released {
            Ok(_) => !self.state.claim.is_in_doubt(),
            Err(error) => is_final(error),
        };
        released
    }

    /// Retries until the store answers that nothing is held and no late request can be applied.
    ///
    /// After a call that was cut off, that is never certain unless the store says so. The retries
    /// then end after one TTL, since the lease of a late request ends by its own TTL. On a shared
    /// session such a lease is an orphan from then on, and the next renewal round deletes it
    /// without harm to the session's other leases. A release that was answered is repeated only
    /// against late requests, and nobody waits for these repeats.
    pub(crate) async fn finish(mut self) {
        self.finish_request().await;
        let mut pause = MIN_RETRY_DELAY;
        loop {
            let result = self.attempt_in_turn().await;
            match &result {
                Ok(_) if !self.state.claim.is_in_doubt() => break,
                Err(error) if is_final(error) => {
                    observe::gave_up_withdrawing(self.state.claim.name(), self.state.claim.holder(), error);
                    break;
                }
                _ => {}
            }
            let until = self.deadline();
            if self.engine.clock.now() >= until {
                if let Err(error) = result {
                    observe::gave_up_withdrawing(self.state.claim.name(), self.state.claim.holder(), &error);
                }
                break;
            }
            self.engine.clock.sleep_until(self.engine.clock.now().after(pause).min(until)).await;
            pause = (pause * 2).min(self.state.claim.ttl() / 4).max(MIN_RETRY_DELAY);
        }
        self.done = true;
    }

    async fn finish_request(&mut self) {
        let Some(request) = self.state.calls.request.as_mut() else { return };
        let ended = tokio::time::timeout(self.engine.call_timeout, catch_panic("a request", request)).await;
        self.state.calls.request = None;
        if ended.is_err() || ended.is_ok_and(|answer| answer.is_err_and(|e| e.may_have_taken_effect())) {
            self.state.claim.set_in_doubt();
        }
    }

    /// End of the retries: a lease of any earlier request has expired one TTL later.
    fn deadline(&self) -> Moment {
        let claim = &self.state.claim;
        let since = match self.state.settled {
            false => claim.in_doubt_since().unwrap_or(self.state.began).max(self.state.began),
            true => claim.in_doubt_since().unwrap_or(self.state.began),
        };
        since.after(claim.ttl())
    }

    /// One attempt, with a permit: the releases of thousands of dropped guards must not all be in
    /// flight at once.
    async fn attempt_in_turn(&mut self) -> Result<ReleaseOutcome> {
        let engine = self.engine.clone();
        let _permit = engine.turns.acquire().await;
        self.attempt().await
    }

    async fn attempt(&mut self) -> Result<ReleaseOutcome> {
        let claim = &self.state.claim;
        let release = self.state.calls.release.get_or_insert_with(|| {
            let (store, claim) = (self.engine.store.clone(), claim.clone());
            boxed(async move { store.release(&claim, Duration::ZERO).await })
        });
        let answer = tokio::time::timeout(self.engine.call_timeout, catch_panic("a release", release)).await;
        self.state.calls.release = None;
        let answer = answer.unwrap_or_else(|_| Err(self.engine.no_answer(&format!("releasing \"{}\"", claim.name()))));
        match &answer {
            Ok(_) => {
                observe::released(claim.name(), claim.holder());
                self.engine.outage.store_answered();
                self.engine.queues.wake_head(claim.name());
                self.settle();
            }
            Err(error) => self.engine.outage.release_failed(claim.name(), claim.holder(), error),
        }
        answer
    }

    /// Notes that closing no longer waits for it.
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.state.settled, true)
            && self.engine.withdrawing.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.engine.settled.notify_waiters();
        }
    }
}

/// True if a retry is of no use, and the call certainly had no effect.
fn is_final(error: &Error) -> bool {
    !error.is_retryable() && !error.may_have_taken_effect()
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if self.done {
            self.state.claim.settle();
            self.settle();
            return;
        }
        let mut calls = std::mem::take(&mut self.state.calls);
        if self.in_background {
            // The calls' connections end with the runtime: a request may still be applied.
            if calls.request.is_some() {
                self.state.claim.set_in_doubt();
            }
            calls = Calls::default();
        }
        let WithdrawalState { claim, began, settled, .. } = &self.state;
        self.engine.resume_withdrawal(WithdrawalState {
            claim: claim.clone(),
            calls,
            began: *began,
            settled: *settled,
        });
    }
}
