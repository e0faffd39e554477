//! [`Locks`]: the locks of one store.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use super::guard::{FencedGuard, Guard, LockGuard};
use super::handle::EngineHandle;
use super::lock::Lock;
use super::settings;
use super::settings::Settings;
use crate::contract::{BreakMode, Eviction, Finding, LockStore};
use crate::engine::Engine;
use crate::words::{Clock, Error, ErrorKind, Guarantees, HeldBy, HolderInfo, LockName, Realm, Result, Space};
use crate::{engine, runtime};

/// The locks of one store. Cloning is cheap and gives the same locks.
///
/// All locks of one `Locks` share one background task. It starts with the first acquire, and runs
/// as long as a `Locks`, a lock or a held guard exists, even if the runtime that acquired ends. A
/// program needs one `Locks` per store.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
/// let locks = lock_core::Locks::new(lock_core::MemoryStore::new());
/// let guard = locks.lock("nightly-report").acquire().await?;
/// guard.while_held(async { /* the work */ }).await?;
/// guard.release().await
/// # }
/// ```
pub struct Locks<G: Guard = LockGuard> {
    owner: Arc<EngineHandle>,
    guard: PhantomData<fn() -> G>,
}

/// The locks of a store that fences: every guard has a token.
pub type FencedLocks = Locks<FencedGuard>;

/// Settings of a [`Locks`]; made by [`Locks::builder`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct LocksBuilder {
    store: Arc<dyn LockStore>,
    settings: Settings,
}

impl Locks {
    /// Default time-out of one call to the store: 5 seconds.
    pub const DEFAULT_CALL_TIMEOUT: Duration = settings::DEFAULT_CALL_TIMEOUT;

    /// The locks of this store, with default settings. It needs no runtime.
    pub fn new(store: impl LockStore) -> Locks {
        Locks::builder(store).build()
    }

    /// The locks of this store, with settings.
    pub fn builder(store: impl LockStore) -> LocksBuilder {
        Locks::builder_of(Arc::new(store))
    }

    /// The locks of this shared store, with settings.
    pub fn builder_of(store: Arc<dyn LockStore>) -> LocksBuilder {
        LocksBuilder { store, settings: Settings::default() }
    }

    /// The same locks, with guards that carry a fencing token.
    ///
    /// # Errors
    ///
    /// [`TooWeak`](ErrorKind::TooWeak) if the store does not promise what
    /// [`Guarantees::FOR_CORRECTNESS`] requires; the text says what is missing.
    pub fn for_correctness(&self) -> Result<FencedLocks> {
        self.require(&Guarantees::FOR_CORRECTNESS)?;
        Ok(Locks { owner: self.owner.clone(), guard: PhantomData })
    }
}

impl<G: Guard> Locks<G> {
    /// The locks of this store, whose guarantees suffice for such guards.
    pub(crate) fn of(store: Arc<dyn LockStore>, settings: Settings) -> Locks<G> {
        let info = HolderInfo::of_this_process(&settings.holder_text);
        let engine =
            engine::new(store, settings.clock, settings.call_timeout.unwrap_or(Locks::DEFAULT_CALL_TIMEOUT), info);
        Locks { owner: Arc::new(EngineHandle::new(engine, settings.defaults)), guard: PhantomData }
    }

    /// The guarantees of the store as configured.
    pub fn guarantees(&self) -> Guarantees {
        self.engine().store.guarantees()
    }

    /// The realm of its tokens.
    pub fn realm(&self) -> Realm {
        self.engine().store.realm()
    }

    /// Checks that the store promises at least this.
    ///
    /// # Errors
    ///
    /// [`TooWeak`](ErrorKind::TooWeak); the text says what is missing.
    pub fn require(&self, least: &Guarantees) -> Result<()> {
        self.guarantees().require(least, "this store").map_err(|text| Error::refused(ErrorKind::TooWeak, text))
    }

    /// A lock of this name. No request is made before it is acquired; a name that is not accepted
    /// is reported then.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock<G> {
        Lock::new(&self.owner, name.as_ref())
    }

    /// The holders of the lock of this name; empty if it is free.
    ///
    /// # Errors
    ///
    /// [`InvalidName`](ErrorKind::InvalidName), [`Unavailable`](ErrorKind::Unavailable),
    /// [`TimedOut`](ErrorKind::TimedOut), [`Denied`](ErrorKind::Denied) or
    /// [`Protocol`](ErrorKind::Protocol).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<HeldBy>> {
        let name = LockName::new(name)?;
        self.engine().bounded("inspecting", self.engine().store.inspect(&name, Space::Locks)).await
    }

    /// Up to `limit` held locks whose names come after `after`, in the byte order of their names,
    /// with their holders.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locks::inspect).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.engine().bounded("listing", self.engine().store.list(Space::Locks, after, limit)).await
    }

    /// Ends the lease of the holder that was `seen`, and of no other; `None` if that holder no
    /// longer has it. The evicted guard is lost at its next renewal. For operators; see
    /// [`BreakMode`] for the effect on others.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locks::inspect).
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, breaking may or may not have taken effect; a retry is safe.
    pub async fn break_lock(&self, name: impl AsRef<str>, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let name = LockName::new(name)?;
        self.engine().bounded("breaking", self.engine().store.break_lock(&name, seen, how)).await
    }

    /// Starts a new realm, after the store's data was restored from a backup: fences then refuse
    /// its tokens until an operator adopts the new realm. For operators.
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locks::inspect); [`InvalidConfig`](ErrorKind::InvalidConfig) where the server
    /// decides the realm.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, it may or may not have taken effect.
    pub async fn new_realm(&self) -> Result<Realm> {
        self.engine().bounded("beginning a new realm", self.engine().store.new_realm()).await
    }

    /// Looks at the store's servers, settings and data as they are now: a [`Finding`] for each fact
    /// that the store knows to look at, also if it is as it should be. A server that does not
    /// answer is a finding. The codes are listed in the documentation of each store.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
    /// # let locks = lock_core::Locks::new(lock_core::MemoryStore::new());
    /// let findings = locks.diagnose().await?;
    /// findings.iter().for_each(|finding| println!("{finding}"));
    /// let worst = findings.iter().map(|finding| finding.severity).max();
    /// # assert_eq!(worst, Some(lock_core::Severity::Info));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`inspect`](Locks::inspect), if nothing answers at all, or not within the time-out of one
    /// call.
    ///
    /// # Cancel safety
    ///
    /// It changes no lock. It leaves at most a session without a lease, which ends by itself.
    pub async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.engine().bounded("diagnosing", self.engine().store.diagnose()).await
    }

    /// Refuses new acquisitions, ends those that wait with [`Closed`](ErrorKind::Closed), and waits
    /// until their entries in the store's queue and everything that was dropped is given back. Call
    /// it before a process exits. Guards that are held stay held, and are renewed as before. If the
    /// store cannot be reached, it waits for one TTL at most.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, acquisitions are still refused; only the waiting ends.
    pub async fn close(&self) {
        runtime::on_any_runtime(self.engine().close()).await;
    }

    fn engine(&self) -> &Arc<Engine> {
        self.owner.engine()
    }
}

impl LocksBuilder {
    /// Sets the time-out of one call to the store; by default 5 seconds. No client library's own
    /// time-out is trusted. With zero, every call is refused.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.settings.call_timeout = Some(limit);
        self
    }

    /// Sets a free text about the holders of this process, for people. It is cut after 256 bytes.
    pub fn holder_info(mut self, text: impl Into<String>) -> Self {
        self.settings.holder_text = text.into();
        self
    }

    /// Sets the clock of the leases, with its margin; by default [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.clock = clock;
        self
    }

    /// Sets the TTL of locks that set none; by default [`Lock::DEFAULT_TTL`].
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.defaults.ttl = ttl;
        self
    }

    /// Sets the longest wait of locks that set none; by default there is no limit.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.settings.defaults.wait = Some(limit);
        self
    }

    /// Makes the locks. It needs no runtime.
    pub fn build(self) -> Locks {
        Locks::of(self.store, self.settings)
    }
}

impl<G: Guard> Clone for Locks<G> {
    fn clone(&self) -> Self {
        Locks { owner: self.owner.clone(), guard: PhantomData }
    }
}

impl<G: Guard> fmt::Debug for Locks<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Locks").field("store", &self.engine().store).finish_non_exhaustive()
    }
}
