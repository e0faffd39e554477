//! [`Withdrawal`]: giving back what a claim may hold.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Engine;
use crate::{Attempt, Claim, Effect, Error, ErrorKind, LockName, LossReason, Moment, Released, Result, observe};

/// A call to the store that owns all it needs, so that whoever began it can be dropped and another can finish it.
pub(crate) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Giving back what a claim may hold: a lease, a place in the queue, or what a request under way will still get.
///
/// It is owned: dropped before its end, what is left of it goes back to the engine, which goes on with it; and if the
/// engine's runtime is gone, it waits there for the next one.
pub(crate) struct Withdrawal {
    engine: Arc<Engine>,
    claim: Claim,
    calls: Calls,
    /// Whether it runs on the engine's own runtime: then only the end of that runtime drops it early.
    in_background: bool,
    done: bool,
}

/// What a withdrawal has under way.
#[derive(Default)]
struct Calls {
    /// The request that was under way when its acquire was dropped. It is finished first: a release that is sent at
    /// once can overtake it.
    request: Option<Call<Attempt>>,
    release: Option<Call<Released>>,
}

/// A withdrawal that waits for its turn in the engine.
pub(crate) struct Unfinished {
    claim: Claim,
    calls: Calls,
}

impl Unfinished {
    pub(crate) fn name(&self) -> &LockName {
        self.claim.name()
    }
}

impl Withdrawal {
    /// Gives `claim` back in the background, after finishing the `request` that is under way.
    pub(crate) fn later(engine: &Arc<Engine>, claim: Claim, request: Option<Call<Attempt>>) {
        engine.withdrawing.fetch_add(1, Ordering::AcqRel);
        engine.withdraw_later(Unfinished { claim, calls: Calls { request, release: None } });
    }

    /// Gives `claim` back as part of the caller's own future.
    pub(crate) fn now(engine: &Arc<Engine>, claim: Claim) -> Withdrawal {
        engine.withdrawing.fetch_add(1, Ordering::AcqRel);
        Withdrawal { engine: engine.clone(), claim, calls: Calls::default(), in_background: false, done: false }
    }

    pub(crate) fn resume(engine: &Arc<Engine>, rest: Unfinished) -> Withdrawal {
        Withdrawal { engine: engine.clone(), claim: rest.claim, calls: rest.calls, in_background: true, done: false }
    }

    /// One try, as a guard's release makes it. What it leaves unclear goes on in the background.
    pub(crate) async fn once(mut self) -> Result<Released> {
        let released = self.attempt().await;
        match &released {
            Ok(_) => self.done = !self.claim.is_unclear(),
            Err(error) => self.done = !error.is_retryable() && !error.may_have_taken_effect(),
        }
        released
    }

    /// Goes on until the store says that nothing is held and nothing can come any more.
    ///
    /// After a call that was cut off that is never certain: then it goes on for one TTL, since what is applied later
    /// still ends by itself; except on a shared session, which would carry it on and therefore ends itself.
    pub(crate) async fn finish(mut self) {
        let until = self.engine.clock.now().after(self.claim.ttl());
        if let Some(request) = self.calls.request.as_mut() {
            let ended = tokio::time::timeout(self.engine.call_timeout, request).await;
            self.calls.request = None;
            if ended.is_err() || ended.is_ok_and(|answer| answer.is_err_and(|e| e.may_have_taken_effect())) {
                self.claim.set_unclear();
            }
        }
        let mut pause = Duration::from_millis(20);
        loop {
            let tried = self.attempt().await;
            match &tried {
                Ok(_) if !self.claim.is_unclear() => break,
                Err(error) if !error.is_retryable() && !error.may_have_taken_effect() => {
                    observe::gave_up_withdrawing(&self.claim, Some(error));
                    break;
                }
                _ => {}
            }
            if self.engine.clock.now() >= until {
                self.give_up(tried.err());
                break;
            }
            self.engine.clock.sleep_until(self.next_try(pause, until)).await;
            pause = (pause * 2).min(self.claim.ttl() / 4).max(Duration::from_millis(20));
        }
        self.done = true;
    }

    fn next_try(&self, pause: Duration, until: Moment) -> Moment {
        self.engine.clock.now().after(pause).min(until)
    }

    fn give_up(&self, error: Option<Error>) {
        if error.is_some() {
            observe::gave_up_withdrawing(&self.claim, error.as_ref());
        }
        if let Some(session) = self.claim.session() {
            session.end(LossReason::SessionEnded);
        }
    }

    async fn attempt(&mut self) -> Result<Released> {
        let release = self.calls.release.get_or_insert_with(|| {
            let (store, claim) = (self.engine.store.clone(), self.claim.clone());
            Box::pin(async move { store.release(&claim).await })
        });
        let answer = tokio::time::timeout(self.engine.call_timeout, release).await;
        self.calls.release = None;
        let answer = answer.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::TimedOut,
                Effect::Unknown,
                format!("releasing \"{}\" brought no answer within {:?}", self.claim.name(), self.engine.call_timeout),
            ))
        });
        match &answer {
            Ok(_) => {
                observe::released(&self.claim);
                self.engine.lines.call_head(self.claim.name());
            }
            Err(error) => observe::release_failed(&self.claim, error),
        }
        answer
    }
}

impl Drop for Withdrawal {
    fn drop(&mut self) {
        // A store that panicked would do so again.
        if self.done || std::thread::panicking() {
            self.claim.settle();
            if self.engine.withdrawing.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.engine.settled.notify_waiters();
            }
            return;
        }
        let calls = std::mem::take(&mut self.calls);
        let calls = match self.in_background {
            false => calls,
            true => {
                // The calls' connections are going with the runtime: what was asked may still be applied.
                if calls.request.is_some() {
                    self.claim.set_unclear();
                }
                Calls::default()
            }
        };
        self.engine.withdraw_later(Unfinished { claim: self.claim.clone(), calls });
    }
}
