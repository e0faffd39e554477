//! [`LockGuard`] and [`FencedGuard`]: the guards of held locks.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use super::validity::Validity;
use crate::contract::ReleaseOutcome;
use crate::engine::{Engine, Grant, Withdrawal};
use crate::runtime;
use crate::words::{Error, ErrorKind, FencingToken, Guarantees, LossReason, Result};

/// Holds a lock until it is released, dropped or lost.
///
/// It derefs to [`Validity`]: `guard.is_valid()`, `guard.lost().await`,
/// `guard.while_held(work).await`. Unless the lock was made [`fixed`](crate::Lock::fixed), it is
/// renewed in the background at a third of its TTL.
///
/// Dropping it gives the lock back in the background; that never blocks and never panics, with or
/// without a runtime. Dropping is not immediate: [`Locks::close`](crate::Locks::close) waits for
/// it, while [`release`](LockGuard::release) gives the lock back now and returns the result.
#[must_use = "dropping the guard gives the lock back at once; `let _ = …` drops it too: bind it to a name"]
pub struct LockGuard {
    engine: Arc<Engine>,
    validity: Validity,
    token: Option<FencingToken>,
    given_back: bool,
}

impl LockGuard {
    pub(crate) fn granted(engine: &Arc<Engine>, grant: Grant) -> LockGuard {
        let validity = Validity::new(grant.claim, grant.session);
        LockGuard { engine: engine.clone(), validity, token: grant.token, given_back: false }
    }

    /// The fencing token, where the store issues one. It is no promise: the store's [`Guarantees`]
    /// say which faults the order of tokens survives. For writes that must be fenced take a
    /// [`FencedGuard`].
    pub fn token_if_any(&self) -> Option<&FencingToken> {
        self.token.as_ref()
    }

    /// Renews the lease now, in addition to the renewals in the background.
    ///
    /// # Errors
    ///
    /// [`Lost`](ErrorKind::Lost) if the lease is lost; [`TimedOut`](ErrorKind::TimedOut),
    /// [`Unavailable`](ErrorKind::Unavailable) or [`Denied`](ErrorKind::Denied) if no answer came:
    /// then the lease is neither extended nor lost, and stays valid for as long as before.
    ///
    /// # Cancel safety
    ///
    /// A dropped renewal counts as one without an answer.
    pub async fn renew(&self) -> Result<()> {
        self.check()?;
        let renewed = runtime::on_any_runtime(self.engine.renew_now(self.validity.session())).await;
        self.check()?;
        renewed
    }

    /// Gives the lock back: `Ok` if it was held until now.
    ///
    /// # Errors
    ///
    /// [`Lost`](ErrorKind::Lost) if the lease was lost before; otherwise, if no answer came, the
    /// store's error: then it is unknown if the lock is free, and giving it back continues in the
    /// background.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the lock is given back in the background.
    pub async fn release(mut self) -> Result<()> {
        // Without this, a caller's loop over a store that answers at once would starve other tasks.
        tokio::task::coop::consume_budget().await;
        let lost = self.end();
        if lost == Some(LossReason::NotHeld) && !self.validity.claim().is_in_doubt() {
            return Err(LossReason::NotHeld.into());
        }
        let withdrawal = Withdrawal::start(&self.engine, self.validity.claim().clone());
        let released = runtime::on_any_runtime(withdrawal.try_once()).await;
        match (lost, released) {
            (Some(reason), _) => Err(reason.into()),
            (None, Ok(ReleaseOutcome::Held)) => Ok(()),
            (None, Ok(ReleaseOutcome::NotHeld)) => Err(LossReason::NotHeld.into()),
            (None, Err(error)) => Err(error),
        }
    }

    /// Ends all belief in the lease, before the store may grant the lock to another holder. Returns
    /// the reason if it was lost before.
    fn end(&mut self) -> Option<LossReason> {
        let lost = self.validity.check().err();
        self.given_back = true;
        self.validity.claim().deadline().end(LossReason::Released);
        self.engine.forget(self.validity.session());
        lost
    }
}

impl Deref for LockGuard {
    type Target = Validity;

    fn deref(&self) -> &Validity {
        &self.validity
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        if self.given_back {
            return;
        }
        let lost = self.end();
        if lost != Some(LossReason::NotHeld) || self.validity.claim().is_in_doubt() {
            self.engine.withdraw(self.validity.claim().clone(), None);
        }
    }
}

impl fmt::Debug for LockGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockGuard").field("validity", &self.validity).field("token", &self.token).finish()
    }
}

/// Holds a lock whose [`token`](FencedGuard::token) the store promises to keep in order. A function
/// whose writes must be fenced takes this guard. It derefs to [`LockGuard`]; an unfenced guard in
/// its place does not compile:
///
/// ```compile_fail,E0308
/// # use lock_core::{FencedGuard, LockGuard};
/// fn write_invoice(guard: &FencedGuard) {}
/// fn with_an_unfenced_guard(guard: &LockGuard) {
///     write_invoice(guard);
/// }
/// ```
#[must_use = "dropping the guard gives the lock back at once; `let _ = …` drops it too: bind it to a name"]
pub struct FencedGuard {
    guard: LockGuard,
    token: FencingToken,
}

impl FencedGuard {
    /// The fencing token: greater than that of every earlier holder of this name. Send it with
    /// every write, and let a [`Fence`](crate::Fence) at the resource refuse a smaller one.
    pub fn token(&self) -> &FencingToken {
        &self.token
    }

    /// Gives the lock back, as [`LockGuard::release`].
    ///
    /// # Errors
    ///
    /// As [`LockGuard::release`].
    ///
    /// # Cancel safety
    ///
    /// As [`LockGuard::release`].
    pub async fn release(self) -> Result<()> {
        self.guard.release().await
    }

    /// The guard without its promise, and the token.
    pub fn into_parts(self) -> (LockGuard, FencingToken) {
        (self.guard, self.token)
    }
}

impl Deref for FencedGuard {
    type Target = LockGuard;

    fn deref(&self) -> &LockGuard {
        &self.guard
    }
}

impl fmt::Debug for FencedGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedGuard").field("validity", &self.guard.validity).field("token", &self.token).finish()
    }
}

/// The two kinds of guards: [`LockGuard`] for efficiency, [`FencedGuard`] for correctness. Sealed.
pub trait Guard: sealed::Sealed + Deref + fmt::Debug + Send + Sync + 'static {}

impl Guard for LockGuard {}
impl Guard for FencedGuard {}

pub(crate) mod sealed {
    use super::{Guarantees, LockGuard, Result};

    pub trait Sealed: Sized {
        /// Guarantees that a store must have for such guards.
        const LEAST: Guarantees;

        /// Makes this kind of guard of a granted one.
        fn of(guard: LockGuard) -> Result<Self>;
    }
}

impl sealed::Sealed for LockGuard {
    const LEAST: Guarantees = Guarantees::NONE;

    fn of(guard: LockGuard) -> Result<LockGuard> {
        Ok(guard)
    }
}

impl sealed::Sealed for FencedGuard {
    const LEAST: Guarantees = Guarantees::FOR_CORRECTNESS;

    fn of(guard: LockGuard) -> Result<FencedGuard> {
        let token = guard.token.clone().ok_or_else(|| {
            Error::refused(ErrorKind::Protocol, "the store promises fencing tokens, and granted a lease without one")
        })?;
        Ok(FencedGuard { guard, token })
    }
}
