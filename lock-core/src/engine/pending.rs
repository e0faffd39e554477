//! [`Pending`]: a claim while it is asked for.

use std::sync::Arc;

use super::call::{Call, boxed, catch_panic};
use super::shared::Engine;
use crate::contract::{Attempt, Claim, Contention, Lease, Session};
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, FencingToken, Moment, Result};

/// What the caller gets.
pub(crate) struct Grant {
    pub(crate) claim: Claim,
    pub(crate) session: Session,
    pub(crate) token: Option<FencingToken>,
}

/// What a request brought.
pub(super) enum RequestOutcome {
    /// A lease, and when its answer came.
    Granted(Grant, Moment),
    Held(Contention),
    /// It was granted, but may no longer be believed in.
    TooLate,
    /// It was granted, but meanwhile these locks were closed.
    Closed,
}

/// A claim that is being asked for. Dropped before it is granted, it is withdrawn.
pub(super) struct Pending {
    engine: Arc<Engine>,
    pub(super) claim: Claim,
    /// The request under way.
    request: Option<Call<Attempt>>,
    /// Whether the store may keep something for this claim: a lease, or a place in the queue.
    may_be_known: bool,
    /// It is among the engine's waiters.
    waits: bool,
}

impl Pending {
    pub(super) fn new(engine: &Arc<Engine>, claim: Claim) -> Pending {
        Pending { engine: engine.clone(), claim, request: None, may_be_known: false, waits: false }
    }

    /// From now on closing withdraws it, should nobody poll or drop this.
    pub(super) fn register_waiter(&mut self) {
        if !std::mem::replace(&mut self.waits, true) {
            locked(&self.engine.waiters).insert(self.claim.holder(), self.claim.clone());
        }
    }

    /// Asks once. `sent` was read from the clock before: the request cannot leave earlier.
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
