//! [`Validity`]: whether a lease may still be believed in.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::contract::{Claim, Session};
use crate::runtime;
use crate::words::{Effect, Error, ErrorKind, Holder, LockName, LossReason};

/// Whether a lease may still be believed in: what helpers and workers take, blocking ones too.
///
/// It sees what its guard sees, and holds nothing: when the guard is released or dropped, it is lost. Each helper takes
/// one of its own with [`validity`](Validity::validity), which is cheap. It is not `Clone`, so that `guard.clone()`,
/// which could only clone what the guard derefs to, does not compile:
///
/// ```compile_fail,E0599
/// # async fn f(lock: lock_core::Lock) -> lock_core::Result<()> {
/// let guard = lock.acquire().await?;
/// let second_guard = guard.clone();
/// # drop(second_guard); Ok(()) }
/// ```
///
/// It is true by time alone: `valid until = when the last confirmed request was sent + TTL − margin`, on a clock that
/// never steps and counts suspended time. Past that moment the answer is "lost", even if the store, the network or this
/// program's renewals hang.
///
/// What it cannot do: stop a process that was paused between the check and the write. For that, send the fencing token
/// along with the write.
pub struct Validity {
    claim: Claim,
    session: Session,
}

impl Validity {
    pub(crate) fn new(claim: Claim, session: Session) -> Validity {
        Validity { claim, session }
    }

    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Another one of the same lease: what helpers and workers take.
    pub fn validity(&self) -> Validity {
        Validity { claim: self.claim.clone(), session: self.session.clone() }
    }

    /// The lock's name.
    pub fn name(&self) -> &LockName {
        self.claim.name()
    }

    /// The identity of this acquisition.
    pub fn holder(&self) -> Holder {
        self.claim.holder()
    }

    /// The TTL that the store granted; it may be longer than what was asked for, where a store counts in whole seconds.
    pub fn ttl(&self) -> Duration {
        self.session.ttl()
    }

    /// For how long the lease may be believed in if it is not renewed again; zero if it is lost.
    pub fn remaining(&self) -> Duration {
        if self.is_valid() { self.session.remaining() } else { Duration::ZERO }
    }

    /// Whether the lease may be believed in now.
    pub fn is_valid(&self) -> bool {
        self.loss().is_none()
    }

    /// Asks whether the lease may be believed in now: for between the steps of blocking work.
    ///
    /// # Errors
    ///
    /// Why it is lost. It converts into an [`Error`] of kind [`Lost`](crate::ErrorKind::Lost), so that
    /// `validity.check()?` is enough.
    pub fn check(&self) -> Result<(), LossReason> {
        self.loss().map_or(Ok(()), Err)
    }

    fn loss(&self) -> Option<LossReason> {
        self.claim.deadline().ended_by().or_else(|| self.session.loss())
    }

    /// Why the last renewal was not confirmed, if one was tried since the last that was: for people, beside the reason of a
    /// loss.
    pub fn renewal_failure(&self) -> Option<Error> {
        let schedule = self.session.schedule();
        let silent = || Error::new(ErrorKind::TimedOut, Effect::Unknown, "the store has not answered it");
        schedule.failure().or_else(|| schedule.is_in_flight().then(silent))
    }

    /// Completes when the lease is lost, with the reason; at its deadline at the latest, whatever hangs.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&self) -> LossReason {
        runtime::on_any_runtime(self.until_lost()).await
    }

    async fn until_lost(&self) -> LossReason {
        loop {
            // Subscribed before looking: an end in between is not missed.
            let own = self.claim.deadline().changed();
            if let Some(reason) = self.loss() {
                return reason;
            }
            tokio::select! {
                () = own => {}
                _ = self.session.lost() => {}
            }
        }
    }

    /// Completes when the validity has grown beyond what it is at this call, not at the first poll; for who passes
    /// the deadline on to others.
    ///
    /// # Errors
    ///
    /// Why the lease is lost, if it is before.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub fn renewed(&self) -> impl Future<Output = Result<(), LossReason>> + Send + '_ {
        let known = self.session.deadline().moment();
        async move {
            loop {
                let changed = self.session.deadline().changed();
                self.check()?;
                if self.session.deadline().moment() > known {
                    return Ok(());
                }
                tokio::select! {
                    () = changed => {}
                    reason = self.lost() => return Err(reason),
                }
            }
        }
    }

    /// Does `work` while the lease is valid, and drops it at the await point where it stands when the lease is lost.
    ///
    /// `Ok` says that the lease was valid from the first poll of `work` to its last. Work that ends after the loss is
    /// reported as lost although it ended.
    ///
    /// # Errors
    ///
    /// Why the lease was lost.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `work`, which is dropped with this future.
    pub async fn while_held<F: Future>(&self, work: F) -> Result<F::Output, LossReason> {
        let mut lost = pin!(self.lost());
        let mut work = pin!(work);
        poll_fn(|context| {
            // Looked at before and after each step: after a pause of the process its timers are the last to know.
            if let Some(reason) = self.loss() {
                return Poll::Ready(Err(reason));
            }
            if let Poll::Ready(reason) = lost.as_mut().poll(context) {
                return Poll::Ready(Err(reason));
            }
            work.as_mut().poll(context).map(|output| self.check().map(|()| output))
        })
        .await
    }
}

impl fmt::Debug for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validity")
            .field("name", self.name())
            .field("holder", &self.holder())
            .field("remaining", &self.remaining())
            .field("loss", &self.loss())
            .finish()
    }
}
