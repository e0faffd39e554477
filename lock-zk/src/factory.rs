//! [`SessionFactory`]: opens sessions that carry leases.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use lock_core::{Error, Result};
use zookeeper_client::Acls;

use crate::error::CallError;
use crate::heartbeat::Heartbeat;
use crate::layout::Layout;
use crate::opener::{OpenedSession, SessionOpener};
use crate::realm;
use crate::session::ZkSession;

/// Opens sessions that carry leases.
#[derive(Clone)]
pub(crate) struct SessionFactory(Arc<Inner>);

struct Inner {
    opener: SessionOpener,
    tick: Duration,
    layout: Layout,
    acls: Acls<'static>,
    /// The greatest transaction id that any session has shown.
    latest_zxid: AtomicI64,
}

/// The shortest session that is used, in ticks. A heartbeat takes a tick, and shows the state of a
/// tick ago.
const MIN_TICKS: u32 = 4;

impl SessionFactory {
    pub(crate) fn new(opener: SessionOpener, tick: Duration, layout: Layout, acls: Acls<'static>) -> SessionFactory {
        SessionFactory(Arc::new(Inner { opener, tick, layout, acls, latest_zxid: AtomicI64::new(0) }))
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub(crate) fn tick(&self) -> Duration {
        self.0.tick
    }

    /// The shortest TTL that a lease gets.
    pub(crate) fn min_ttl(&self) -> Duration {
        self.0.tick * MIN_TICKS
    }

    /// A session for one fixed lease.
    pub(crate) async fn open_single(&self, ttl: Duration) -> Result<Arc<ZkSession>> {
        self.open_for(ttl.max(self.min_ttl()), true).await
    }

    /// Records a transaction id that a session has shown.
    pub(crate) fn record_zxid(&self, zxid: i64) {
        self.0.latest_zxid.fetch_max(zxid, Ordering::AcqRel);
    }

    pub(crate) async fn open_for(&self, ttl: Duration, is_single: bool) -> Result<Arc<ZkSession>> {
        let factory = self.clone();
        self.0.opener.open_with(ttl, move |opened| async move { factory.establish(opened, is_single).await }).await
    }

    /// Makes a session that carries leases of one that was just opened.
    async fn establish(&self, opened: OpenedSession, is_single: bool) -> Result<Arc<ZkSession>, CallError> {
        if opened.ttl < self.min_ttl() {
            return Err(self.too_short(opened.ttl).into());
        }
        let clock = self.0.opener.clock();
        let states = opened.client.state_watcher();
        let nodes_path = self.0.layout.sessions_path();
        let heartbeat = Heartbeat::new(format!("{nodes_path}/{:016x}", opened.id()), self.0.tick);
        let session = Arc::new(ZkSession::new(opened, is_single, clock, heartbeat));
        // Before anything is on it: whatever becomes of this call, the session ends.
        session.start_end_watch(states, clock)?;
        // A new transaction is later than all that were seen before it was asked for; else the data
        // are older ones.
        let before = self.0.latest_zxid.load(Ordering::Acquire);
        let created = session.create_heartbeat_node(clock, &nodes_path, self.0.acls).await?;
        if created <= before {
            session.end(clock);
            return Err(realm::stale_data().into());
        }
        self.record_zxid(created);
        Ok(session)
    }

    fn too_short(&self, granted: Duration) -> Error {
        let text = format!(
            "ZooKeeper grants a session of {granted:?}, and a lease needs {:?}, four of its ticks: raise its \
             maxSessionTimeout",
            self.min_ttl()
        );
        Error::invalid_config(text)
    }
}
