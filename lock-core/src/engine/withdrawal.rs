//! [`Withdrawal`]: giving back what a claim may hold.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::call::{boxed, catch_panic};
use super::shared::Engine;
use super::withdrawal_state::{Calls, WithdrawalState};
use crate::contract::{Claim, ReleaseOutcome};
use crate::observe;
use crate::words::{Error, Moment, Result};

/// Giving back what a claim may hold: a lease, a place in the queue, or what a request under way will still get.
///
/// It is owned: dropped before its end, what is left of it goes back to the engine, which goes on with it; and if the
/// engine's runtime is gone, it waits there for the next one.
pub(crate) struct Withdrawal {
    engine: Arc<Engine>,
    rest: WithdrawalState,
    /// Whether it runs on the engine's own runtime: then only the end of that runtime drops it early.
    in_background: bool,
    done: bool,
}

/// How long to pause before a withdrawal is tried again at first; it doubles each time.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(20);

impl Withdrawal {
    /// Gives `claim` back as part of the caller's own future.
    pub(crate) fn start(engine: &Arc<Engine>, claim: Claim) -> Withdrawal {
        let rest = engine.begin_withdrawal(claim, None);
        Withdrawal { engine: engine.clone(), rest, in_background: false, done: false }
    }

    pub(crate) fn resume(engine: &Arc<Engine>, rest: WithdrawalState) -> Withdrawal {
        Withdrawal { engine: engine.clone(), rest, in_background: true, done: false }
    }

    /// One try, as a guard's release makes it. What it leaves unclear goes on in the background.
    pub(crate) async fn try_once(mut self) -> Result<ReleaseOutcome> {
        let released = self.attempt().await;
        self.done = match &released {
            Ok(_) => !self.rest.claim.is_in_doubt(),
            Err(error) => is_final(error),
        };
        released
    }

    /// Goes on until the store says that nothing is held and nothing can come any more.
    ///
    /// After a call that was cut off that is never certain, unless the store says so: then it goes on for one TTL, since
    /// what is applied later still ends by itself; except on a shared session, where it is an orphan from then on, which
    /// the next renewal round deletes. The session's other leases are none the worse. A release that was answered is
    /// repeated only for what may still come, and nobody waits for that.
    pub(crate) async fn finish(mut self) {
        self.finish_request().await;
        let mut pause = MIN_RETRY_DELAY;
        loop {
            let tried = self.attempt_in_turn().await;
            match &tried {
                Ok(_) if !self.rest.claim.is_in_doubt() => break,
                Err(error) if is_final(error) => {
                    observe::gave_up_withdrawing(self.rest.claim.name(), self.rest.claim.holder(), error);
                    break;
                }
                _ => {}
            }
            let until = self.deadline();
            if self.engine.clock.now() >= until {
                if let Err(error) = tried {
                    observe::gave_up_withdrawing(self.rest.claim.name(), self.rest.claim.holder(), &error);
                }
                break;
            }
            self.engine.clock.sleep_until(self.engine.clock.now().after(pause).min(until)).await;
            pause = (pause * 2).min(self.rest.claim.ttl() / 4).max(MIN_RETRY_DELAY);
        }
        self.done = true;
    }

    async fn finish_request(&mut self) {
        let Some(request) = self.rest.calls.request.as_mut() else { return };
        let ended = tokio::time::timeout(self.engine.call_timeout, catch_panic("a request", request)).await;
        self.rest.calls.request = None;
        if ended.is_err() || ended.is_ok_and(|answer| answer.is_err_and(|e| e.may_have_taken_effect())) {
            self.rest.claim.set_in_doubt();
        }
    }

    /// Until when it is tried: what was asked for before has ended by itself one TTL later.
    fn deadline(&self) -> Moment {
        let claim = &self.rest.claim;
        let since = match self.rest.settled {
            false => claim.in_doubt_since().unwrap_or(self.rest.began).max(self.rest.began),
            true => claim.in_doubt_since().unwrap_or(self.rest.began),
        };
        since.after(claim.ttl())
    }

    /// A try in its turn: those that are dropped by the thousand must not all be under way at once.
    async fn attempt_in_turn(&mut self) -> Result<ReleaseOutcome> {
        let engine = self.engine.clone();
        let _turn = engine.turns.acquire().await;
        self.attempt().await
    }

    async fn attempt(&mut self) -> Result<ReleaseOutcome> {
        let claim = &self.rest.claim;
        let release = self.rest.calls.release.get_or_insert_with(|| {
            let (store, claim) = (self.engine.store.clone(), claim.clone());
            boxed(async move { store.release(&claim).await })
        });
        let answer = tokio::time::timeout(self.engine.call_timeout, catch_panic("a release", release)).await;
        self.rest.calls.release = None;
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

    /// From now on nobody waits for it.
    fn settle(&mut self) {
        if !std::mem::replace(&mut self.rest.settled, true)
            && self.engine.withdrawing.fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.engine.settled.notify_waiters();
        }
    }
}

/// Whether asking again is of no use, and nothing may have happened.
fn is_final(error: &Error) -> bool {
    !error.is_retryable() && !error.may_have_taken_effect()
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if self.done {
            self.rest.claim.settle();
            self.settle();
            return;
        }
        let mut calls = std::mem::take(&mut self.rest.calls);
        if self.in_background {
            // The calls' connections are going with the runtime: what was asked may still be applied.
            if calls.request.is_some() {
                self.rest.claim.set_in_doubt();
            }
            calls = Calls::default();
        }
        let WithdrawalState { claim, began, settled, .. } = &self.rest;
        self.engine.resume_withdrawal(WithdrawalState {
            claim: claim.clone(),
            calls,
            began: *began,
            settled: *settled,
        });
    }
}
