//! [`Lock`]: the description of a lock, before it is held.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument as _;

use super::guard::{Guard, LockGuard};
use super::handle::EngineHandle;
use super::settings;
use crate::engine::{AcquireRequest, Grant, OnWait, Patience, acquire};
use crate::runtime;
use crate::words::{Error, HeldBy, LockName, Result};

/// Description of a lock: its name, its TTL, how long to wait. It holds nothing; every acquisition
/// is a new holder.
///
/// ```
/// # use std::time::Duration;
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
/// let locks = lock_core::Locks::new(lock_core::MemoryStore::new());
/// let lock = locks.lock("nightly-report").ttl(Duration::from_secs(30)).wait(Duration::from_secs(5));
/// let guard = lock.acquire().await?;
/// assert!(lock.try_acquire().await?.is_none());
/// guard.release().await
/// # }
/// ```
pub struct Lock<G: Guard = LockGuard> {
    owner: Arc<EngineHandle>,
    name: Result<LockName>,
    ttl: Duration,
    wait: Option<Duration>,
    fixed: bool,
    on_wait: Option<OnWait>,
    guard: PhantomData<fn() -> G>,
}

impl<G: Guard> Lock<G> {
    /// TTL of a lock that sets none: 30 seconds, the value of Redisson's watchdog.
    pub const DEFAULT_TTL: Duration = settings::DEFAULT_TTL;
    /// Shortest TTL: 10 ms. Below, the margin and one round trip leave no validity.
    pub const MIN_TTL: Duration = Duration::from_millis(10);
    /// Longest TTL: 30 days. A lock that must last longer is renewed.
    pub const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

    pub(crate) fn new(owner: &Arc<EngineHandle>, name: &str) -> Lock<G> {
        Lock {
            owner: owner.clone(),
            name: LockName::new(name),
            ttl: owner.defaults().ttl,
            wait: owner.defaults().wait,
            fixed: false,
            on_wait: None,
            guard: PhantomData,
        }
    }

    /// Sets the time for which the store keeps the lease if it is not renewed, from
    /// [`MIN_TTL`](Lock::MIN_TTL) to [`MAX_TTL`](Lock::MAX_TTL); by default
    /// [`DEFAULT_TTL`](Lock::DEFAULT_TTL). Others wait this long after this process has died.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Limits the time for which [`acquire`](Lock::acquire) waits; by default there is no limit.
    /// Zero makes one request.
    #[must_use]
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// Never renews the lease: it is given back when its TTL ends, and then its guard is lost.
    #[must_use]
    pub fn fixed(mut self) -> Self {
        self.fixed = true;
        self
    }

    /// Sets a callback for waiting acquires: it gets the current holder, and the number of those
    /// ahead where that is known, each time that the acquire learns them. It runs on the acquiring
    /// task and must not block.
    #[must_use]
    pub fn on_wait(mut self, callback: impl Fn(&HeldBy) + Send + Sync + 'static) -> Self {
        self.on_wait = Some(Arc::new(callback));
        self
    }

    /// Acquires the lock, waiting for it up to the limit that [`wait`](Lock::wait) sets.
    ///
    /// Where the store has a queue, waiters are served first come, first served. Elsewhere the
    /// waiters of one `Locks` are served in order, and there is no fairness across processes. A
    /// request without an answer is retried with the same holder: until the limit or, without a
    /// limit, until the store has not answered for one TTL. A request that is in flight when the
    /// limit ends is awaited for the call time-out of these `Locks`.
    ///
    /// The future owns its data and can be spawned.
    ///
    /// # Errors
    ///
    /// [`Contended`](crate::ErrorKind::Contended), with the holder, when the limit ends;
    /// [`InvalidName`](crate::ErrorKind::InvalidName) and
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a name or TTL that is not accepted;
    /// [`Closed`](crate::ErrorKind::Closed) after [`Locks::close`](crate::Locks::close);
    /// [`Unavailable`](crate::ErrorKind::Unavailable), [`TimedOut`](crate::ErrorKind::TimedOut),
    /// [`Denied`](crate::ErrorKind::Denied) and [`Protocol`](crate::ErrorKind::Protocol) from the
    /// store. Whatever a failed acquire may have left in the store is given back in the background.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, whatever it requested is given back in the background, including
    /// what a request in flight still gets. If the store cannot be reached, nothing outlives one
    /// TTL there.
    pub fn acquire(&self) -> impl Future<Output = Result<G>> + Send + 'static + use<G> {
        let wanted = self.request(self.wait.map_or(Patience::Unlimited, Patience::For));
        let owner = self.owner.clone();
        async move {
            let grant = acquire_on(&owner, wanted?).await?;
            let grant = grant.expect("BUG: an acquire that waits ends with a lease or an error");
            G::of(LockGuard::granted(owner.engine(), grant))
        }
    }

    /// Acquires the lock if it is free now: one request, no waiting; `None` if it is held.
    ///
    /// Bind the guard to a name that lives as long as the work. The first two lines here give the
    /// lock back before the work begins, and the compiler does not warn:
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
    /// # let locks = lock_core::Locks::new(lock_core::MemoryStore::new());
    /// # let lock = locks.lock("report");
    /// if lock.try_acquire().await?.is_some() { /* wrong: nothing is held here */ }
    /// let Some(_) = lock.try_acquire().await? else { return Ok(()) }; // wrong: nothing is held after it
    ///
    /// let Some(guard) = lock.try_acquire().await? else { return Ok(()) }; // right
    /// # drop(guard); Ok(()) }
    /// ```
    ///
    /// The future owns its data and can be spawned.
    ///
    /// # Errors
    ///
    /// As [`acquire`](Lock::acquire), without [`Contended`](crate::ErrorKind::Contended). It does
    /// not retry: after an error that may have taken effect, the lock may be held without a guard
    /// until it has been given back in the background, for one TTL at most.
    ///
    /// # Cancel safety
    ///
    /// As [`acquire`](Lock::acquire).
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<G>>> + Send + 'static + use<G> {
        let wanted = self.request(Patience::None);
        let owner = self.owner.clone();
        async move {
            let grant = acquire_on(&owner, wanted?).await?;
            grant.map(|grant| G::of(LockGuard::granted(owner.engine(), grant))).transpose()
        }
    }

    fn request(&self, patience: Patience) -> Result<AcquireRequest> {
        if !(Self::MIN_TTL..=Self::MAX_TTL).contains(&self.ttl) {
            let text = format!("the TTL {:?} is not accepted: a TTL is 10 ms to 30 days", self.ttl);
            return Err(Error::invalid_config(text));
        }
        let margin = self.owner.engine().clock.margin(self.ttl);
        if margin >= self.ttl {
            let text = format!("the margin {margin:?} is not accepted: of the TTL {:?} it leaves nothing", self.ttl);
            return Err(Error::invalid_config(text));
        }
        let name = self.name.clone()?;
        Ok(AcquireRequest { name, ttl: self.ttl, fixed: self.fixed, patience, on_wait: self.on_wait.clone() })
    }
}

async fn acquire_on(owner: &EngineHandle, wanted: AcquireRequest) -> Result<Option<Grant>> {
    let span = tracing::debug_span!("acquire", name = %wanted.name, ttl = ?wanted.ttl);
    runtime::on_any_runtime(acquire(owner.engine().clone(), wanted)).instrument(span).await
}

impl<G: Guard> Clone for Lock<G> {
    fn clone(&self) -> Self {
        Lock {
            owner: self.owner.clone(),
            name: self.name.clone(),
            ttl: self.ttl,
            wait: self.wait,
            fixed: self.fixed,
            on_wait: self.on_wait.clone(),
            guard: PhantomData,
        }
    }
}

impl<G: Guard> fmt::Debug for Lock<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name)
            .field("ttl", &self.ttl)
            .field("wait", &self.wait)
            .field("fixed", &self.fixed)
            .finish_non_exhaustive()
    }
}
