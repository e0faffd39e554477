//! [`Validity`] of a lease.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::contract::{Claim, Session};
use crate::runtime;
use crate::words::{Effect, Error, ErrorKind, Holder, LockName, LossReason};

/// The validity of a lease: if the holder may still believe in it. Helpers and workers take one,
/// blocking ones too.
///
/// It has the same state as its guard, and holds nothing: when the guard is released or dropped, it
/// is lost. Each helper takes one of its own with [`validity`](Validity::validity), which is cheap.
/// It is not `Clone`, so that `guard.clone()`, which could only clone the target of the guard's
/// deref, does not compile:
///
/// ```compile_fail,E0599
/// # async fn f(lock: lock_core::Lock) -> lock_core::Result<()> {
/// let guard = lock.acquire().await?;
/// let second_guard = guard.clone();
/// # drop(second_guard); Ok(()) }
/// ```
///
/// It depends on time alone: `valid until = sending of the last confirmed request + TTL − margin`,
/// on a clock that never steps and counts suspended time. After that moment the answer is "lost",
/// even if the store, the network or this program's renewals hang.
///
/// It cannot stop a process that was paused between the check and the write. For that, send the
/// fencing token along with the write.
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

    /// Another validity of the same lease, for a helper or worker.
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

    /// The TTL that the store granted. It may be longer than the requested one, where a store
    /// counts in whole seconds.
    pub fn ttl(&self) -> Duration {
        self.session.ttl()
    }

    /// Time until the validity ends if the lease is not renewed again; zero if it is lost.
    pub fn remaining(&self) -> Duration {
        if self.is_valid() { self.session.remaining() } else { Duration::ZERO }
    }

    /// True if the lease is valid now.
    pub fn is_valid(&self) -> bool {
        self.loss().is_none()
    }

    /// Checks that the lease is valid now; for use between the steps of blocking work.
    ///
    /// # Errors
    ///
    /// The reason of the loss. It converts into an [`Error`] of kind
    /// [`Lost`](crate::ErrorKind::Lost), so that `validity.check()?` is enough.
    pub fn check(&self) -> Result<(), LossReason> {
        self.loss().map_or(Ok(()), Err)
    }

    fn loss(&self) -> Option<LossReason> {
        self.claim.deadline().ended_by().or_else(|| self.session.loss())
    }

    /// Failure of the renewals since the last confirmed one, for people, in addition to the reason
    /// of a loss; `None` if there is none.
    pub fn renewal_failure(&self) -> Option<Error> {
        let schedule = self.session.schedule();
        let silent = || Error::new(ErrorKind::TimedOut, Effect::Unknown, "the store has not answered it");
        schedule.failure().or_else(|| schedule.is_in_flight().then(silent))
    }

    /// Completes when the lease is lost, with the reason: at its deadline at the latest, whatever
    /// hangs.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn lost(&self) -> LossReason {
        runtime::on_any_runtime(self.until_lost()).await
    }

    async fn until_lost(&self) -> LossReason {
        loop {
            // Subscribed before the check, so that an end in between is not missed.
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

    /// Completes when the deadline is later than it is at this call (not at the first poll); for a
    /// caller that passes the deadline on to others.
    ///
    /// # Errors
    ///
    /// The reason of the loss, if the lease is lost first.
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

    /// Runs `work` while the lease is valid. When the lease is lost, `work` is dropped at its
    /// current await point.
    ///
    /// `Ok` means that the lease was valid from the first poll of `work` to its last. Work that
    /// ends after the loss is reported as lost although it ended.
    ///
    /// # Errors
    ///
    /// The reason of the loss.
    ///
    /// # Cancel safety
    ///
    /// As cancel safe as `work`, which is dropped with this future.
    pub async fn while_held<F: Future>(&self, work: F) -> Result<F::Output, LossReason> {
        let mut lost = pin!(self.lost());
        let mut work = pin!(work);
        poll_fn(|context| {
            // Checked before and after each step: after a pause of the process its timers fire
            // late.
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
