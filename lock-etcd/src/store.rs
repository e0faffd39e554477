//! [`EtcdStore`]: the store's contract.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, BreakMode, Claim, Clock, Contention, Converter, Eviction, Finding, Guarantees, HeldBy, Holder, LockName,
    LockStore, Publisher, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser, async_trait,
};

use crate::backend::Backend;
use crate::config::EtcdConfig;
use crate::diagnose;
use crate::fence_condition::FenceCondition;
use crate::holder_record::HolderRecord;
use crate::lock_key::LockKey;

/// Locks in etcd. The crate's documentation describes the layout.
///
/// Handles are independent, as those of two processes are. All locks of one handle share its
/// sessions and watches.
pub struct EtcdStore {
    backend: Arc<Backend>,
}

impl EtcdStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] = diagnose::FINDING_CODES;

    /// Connects, and lists the members. Sessions are stamped with `clock`: the locks must use the
    /// same one.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`], [`Unavailable`], [`TimedOut`], [`Denied`] or [`Protocol`].
    ///
    /// # Cancel safety
    ///
    /// It leaves at most the mark of a new realm.
    ///
    /// [`InvalidConfig`]: lock_core::ErrorKind::InvalidConfig
    /// [`Unavailable`]: lock_core::ErrorKind::Unavailable
    /// [`TimedOut`]: lock_core::ErrorKind::TimedOut
    /// [`Denied`]: lock_core::ErrorKind::Denied
    /// [`Protocol`]: lock_core::ErrorKind::Protocol
    pub async fn connect(config: EtcdConfig, clock: &Clock) -> Result<EtcdStore> {
        Ok(EtcdStore { backend: Arc::new(Backend::connect(config, clock).await?) })
    }

    /// The condition for writes inside etcd by the holder of this lock, as data for any client;
    /// `None` if this holder does not hold it.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](LockStore::inspect).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn fence_condition(&self, name: &LockName, holder: Holder) -> Result<Option<FenceCondition>> {
        let head = self.backend.read_head(name).await?;
        let is_holder = |key: &LockKey| {
            HolderRecord::decode(&key.value).is_some_and(|record| record.holder == holder && !record.revoked)
        };
        Ok(head.filter(is_holder).map(|key| FenceCondition {
            key: key.key,
            create_revision: key.create_revision,
            mod_revision: key.mod_revision,
        }))
    }
}

#[async_trait]
impl LockStore for EtcdStore {
    fn guarantees(&self) -> Guarantees {
        Guarantees::of_consensus(self.backend.voters)
    }

    fn realm(&self) -> Realm {
        self.backend.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.backend.request(claim).await
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        self.backend.wait(claim, held).await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.backend.sessions.renew_batch(&*self.backend, batch).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        self.backend.release(claim).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        Ok(self.backend.read_holder(name).await?.into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.backend.list_held(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, mode: BreakMode) -> Result<Option<Eviction>> {
        self.backend.evict(name, seen, mode).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.backend.begin_realm().await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.backend.findings().await
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.backend.members)
            .field("prefix", &self.backend.layout.prefix())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
