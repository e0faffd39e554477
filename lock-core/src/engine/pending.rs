//! [`Pending`]: a claim while it is requested.

use std::sync::Arc;

use super::call::{Call, boxed, catch_panic};
use super::shared::Engine;
use crate::contract::{Attempt, Claim, Contention, Lease, Session};
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, FencingToken, Moment, Result};

/// A granted claim, with its session and token.
pub(crate) struct Grant {
    pub(crate) claim: Claim,
    pub(crate) session: Session,
    pub(crate) token: Option<FencingToken>,
}

/// Outcome of a request.
pub(super) enum RequestOutcome {
    /// A lease, and the moment at which its answer came.
    Granted(Grant, Moment),
    Held(Contention),
    /// It was granted, but its validity is already over.
    TooLate,
    /// It was granted, but these locks were closed meanwhile.
    Closed,
}

/// A claim that is being requested. If it is dropped before it is granted, it is withdrawn.
pub(super) struct Pending {
    engine: Arc<Engine>,
    pub(super) claim: Claim,
    /// The request in flight.
    request: Option<Call<Attempt>>,
    /// True if the store may have a lease or a queue entry of this claim.
    may_be_known: bool,
    /// True if it is registered among the engine's waiters.
    waits: bool,
}

impl Pending {
    pub(super) fn new(engine: &Arc<Engine>, claim: Claim) -> Pending {
        Pending { engine: engine.clone(), claim, request: None, may_be_known: false, waits: false }
    }

    /// Registers it, so that closing withdraws it even if its future is neither polled nor dropped.
    pub(super) fn register_waiter(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            locked(&self.engine.waiters).insert(self.claim.holder(), self.claim.clone());
        }
    }

    /// Sends one request. `sent` was read from the clock before, so that the request cannot be sent
    /// earlier.
    pub(super) async fn request(&mut self, sent: Moment) -> Result<RequestOutcome> {
        let (store, claim) = (self.engine.store.clone(), self.claim.clone());
        let request = self.request.insert(boxed(async move { store.request(&claim).await }));
        let answer = tokio::time::timeout(self.engine.call_timeout, catch_panic("a request", request)).await;
        self.request = None;
        if matches!(answer, Ok(Ok(_))) {
            self.engine.outage.store_answered();
        }
        match answer {
            Ok(Ok(Attempt::Granted(lease))) => Ok(self.granted(lease, sent)),
            Ok(Ok(Attempt::Held(held))) => {
                self.may_be_known |= self.claim.queues();
                Ok(RequestOutcome::Held(held))
            }
            Ok(Err(error)) => {
                if error.may_have_taken_effect() {
                    self.mark_in_doubt();
                }
                Err(error)
            }
            Err(_) => {
                self.mark_in_doubt();
                Err(self.engine.no_answer(&format!("asking for \"{}\"", self.claim.name())))
            }
        }
    }

    fn mark_in_doubt(&mut self) {
        self.may_be_known = true;
        self.claim.set_in_doubt();
    }

    fn granted(&mut self, lease: Lease, sent: Moment) -> RequestOutcome {
        self.may_be_known = true;
        let clock = &self.engine.clock;
        let session = lease.session.unwrap_or_else(|| Session::single(self.claim.clone(), clock, sent, lease.ttl));
        let now = clock.now();
        if session.loss_at(now).is_some() || self.claim.deadline().is_over() {
            return RequestOutcome::TooLate;
        }
        if self.engine.is_closed() {
            return RequestOutcome::Closed;
        }
        self.may_be_known = false;
        self.engine.track(&session);
        RequestOutcome::Granted(Grant { claim: self.claim.clone(), session, token: lease.token }, now)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.waits {
            locked(&self.engine.waiters).remove(&self.claim.holder());
        }
        if self.request.is_some() || self.may_be_known {
            self.engine.withdraw(self.claim.clone(), self.request.take());
        }
    }
}

pub(super) fn too_late(claim: &Claim) -> Error {
    let text = format!(
        "\"{}\" was granted, but the answer came after its validity of {:?} had ended; it is given back",
        claim.name(),
        claim.ttl()
    );
    Error::new(ErrorKind::TimedOut, Effect::None, text)
}
