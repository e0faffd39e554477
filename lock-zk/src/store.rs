//! [`ZkStore`]: the contract on ephemeral nodes, sessions and watches.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::kit::Sessions;
use lock_core::{
    Attempt, BreakMode, Claim, Clock, Contention, Converter, Eviction, Finding, Guarantees, HeldBy, LockName,
    LockStore, Publisher, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser, async_trait,
};
use zookeeper_client::Acls;

use crate::factory::SessionFactory;
use crate::layout::Layout;
use crate::opener::SessionOpener;

/// Locks in ZooKeeper. The crate's documentation has the layout.
///
/// Handles are independent, as those of two processes are; all locks of one handle share its
/// sessions.
pub struct ZkStore {
    pub(crate) layout: Layout,
    pub(crate) clock: Clock,
    pub(crate) opener: SessionOpener,
    pub(crate) factory: Arc<SessionFactory>,
    pub(crate) sessions: Sessions<SessionFactory>,
    /// The number of voting servers.
    pub(crate) voters: usize,
    /// The access control list of every node that is made.
    pub(crate) acls: Acls<'static>,
}

#[async_trait]
impl LockStore for ZkStore {
    fn guarantees(&self) -> Guarantees {
        Guarantees::of_consensus(self.voters)
    }

    fn realm(&self) -> Realm {
        self.opener.realm_node().realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.request_lock(claim).await
    }

    async fn wait(&self, claim: &Claim, _held: &Contention) -> Result<()> {
        self.wait_for_predecessor(claim).await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.sessions.renew_batch(&*self.factory, batch).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        self.release_claim(claim).await
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
        Ok(self.read_holder(name).await?.into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.list_held(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.evict(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        let (reader, opener) = (self.opener.reader().await?, self.opener.clone());
        Ok(reader.call(|client| async move { Ok(opener.realm_node().replace(&client).await?) }).await?)
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.findings().await
    }
}

impl fmt::Debug for ZkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkStore")
            .field("opener", &self.opener)
            .field("path", &self.layout.base())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
