//! [`SessionPool`]: the sessions of this process, one for each TTL.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use lock_core::{Error, ErrorKind, Result, Session};
use zookeeper_client::Acls;

use crate::error::CallError;
use crate::heartbeat::Heartbeat;
use crate::opener::{OpenedSession, SessionOpener};
use crate::realm;
use crate::session::ZkSession;
use crate::sync::{SharedFuture, locked};

/// The sessions of this process that carry renewed leases, one for each TTL.
#[derive(Clone)]
pub(crate) struct SessionPool(Arc<Inner>);

struct Inner {
    opener: SessionOpener,
    tick: Duration,
    /// The path below which each session has a node of its own.
    nodes_path: String,
    acls: Acls<'static>,
    by_ttl: Mutex<HashMap<Duration, SharedFuture<Result<Arc<ZkSession>>>>>,
    /// By the numbers of the core's sessions.
    by_key: Mutex<HashMap<u64, Weak<ZkSession>>>,
    /// The greatest transaction id that any session has shown.
    latest_zxid: AtomicI64,
}

/// The shortest session that is used, in ticks. A heartbeat takes a tick, and shows the state of a
/// tick ago.
const MIN_TICKS: u32 = 4;

impl SessionPool {
    pub(crate) fn new(opener: SessionOpener, tick: Duration, nodes_path: String, acls: Acls<'static>) -> SessionPool {
        let (by_ttl, by_key, latest_zxid) = Default::default();
        SessionPool(Arc::new(Inner { opener, tick, nodes_path, acls, by_ttl, by_key, latest_zxid }))
    }

    pub(crate) fn tick(&self) -> Duration {
        self.0.tick
    }

    /// The shortest TTL that a lease gets.
    pub(crate) fn min_ttl(&self) -> Duration {
        self.0.tick * MIN_TICKS
    }

    /// The session for renewed leases of this TTL. A new one is opened if there is none, or too
    /// little of it is left; callers at the same time share the opening.
    pub(crate) async fn for_ttl(&self, ttl: Duration) -> Result<Arc<ZkSession>> {
        let ttl = ttl.max(self.min_ttl());
        let opening = {
            let mut by_ttl = locked(&self.0.by_ttl);
            match by_ttl.get(&ttl).map(|opening| (opening, opening.peek())) {
                Some((_, Some(Ok(session)))) if session.is_usable() => return Ok(session.clone()),
                Some((opening, None)) => opening.clone(),
                _ => {
                    let pool = self.clone();
                    let open = async move { pool.open(ttl, false).await };
                    let opening = open.boxed().shared();
                    by_ttl.insert(ttl, opening.clone());
                    opening
                }
            }
        };
        opening.await
    }

    /// A session for one fixed lease.
    pub(crate) async fn open_single(&self, ttl: Duration) -> Result<Arc<ZkSession>> {
        self.open(ttl.max(self.min_ttl()), true).await
    }

    /// The session of ZooKeeper behind a session of the core.
    pub(crate) fn find(&self, session: &Session) -> Option<Arc<ZkSession>> {
        locked(&self.0.by_key).get(&session.key()).and_then(Weak::upgrade)
    }

    /// Records a transaction id that a session has shown.
    pub(crate) fn record_zxid(&self, zxid: i64) {
        self.0.latest_zxid.fetch_max(zxid, Ordering::AcqRel);
    }

    async fn open(&self, ttl: Duration, is_single: bool) -> Result<Arc<ZkSession>> {
        let pool = self.clone();
        self.0.opener.open_with(ttl, move |opened| async move { pool.establish(opened, is_single).await }).await
    }

    /// Makes a session of the pool of one that was just opened.
    async fn establish(&self, opened: OpenedSession, is_single: bool) -> Result<Arc<ZkSession>, CallError> {
        if opened.ttl < self.min_ttl() {
            return Err(self.too_short(opened.ttl).into());
        }
        let clock = self.0.opener.clock();
        let states = opened.client.state_watcher();
        let heartbeat = Heartbeat::new(format!("{}/{:016x}", self.0.nodes_path, opened.id()), self.0.tick);
        let session = Arc::new(ZkSession::new(opened, is_single, clock, heartbeat));
        // Before anything is on it: whatever becomes of this call, the session ends.
        session.start_end_watch(states, clock)?;
        // A new transaction is later than all that were seen before it was asked for; else the data
        // are older ones.
        let before = self.0.latest_zxid.load(Ordering::Acquire);
        let created = session.create_heartbeat_node(clock, &self.0.nodes_path, self.0.acls).await?;
        if created <= before {
            session.end(clock);
            return Err(realm::stale_data().into());
        }
        self.record_zxid(created);
        if let Some(core_session) = session.core_session() {
            let mut by_key = locked(&self.0.by_key);
            by_key.retain(|_, session| session.strong_count() > 0);
            by_key.insert(core_session.key(), Arc::downgrade(&session));
        }
        Ok(session)
    }

    fn too_short(&self, granted: Duration) -> Error {
        let text = format!(
            "ZooKeeper grants a session of {granted:?}, and a lease needs {:?}, four of its ticks: raise its \
             maxSessionTimeout",
            self.min_ttl()
        );
        Error::refused(ErrorKind::InvalidConfig, text)
    }
}
