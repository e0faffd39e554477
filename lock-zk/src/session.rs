//! [`ZkSession`], a session of ZooKeeper that carries leases; [`SessionPool`], those of this process.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use lock_core::{Clock, Error, ErrorKind, HeldBy, LossReason, Moment, Result, Session, runtime};
use zookeeper_client::{Acls, Client, CreateMode, StateWatcher};

use crate::error::{CallError, classify};
use crate::heartbeat::Heartbeat;
use crate::opener::{OpenedSession, SessionOpener, SharedFuture, is_alive};
use crate::queue_reader::QueueReader;
use crate::realm;
use crate::round::InFlightRound;
use crate::session_client::SessionClient;
use crate::uncontended::Uncontended;

/// A session of ZooKeeper that carries leases of one TTL, or one fixed lease.
pub(crate) struct ZkSession {
    pub(crate) kind: Kind,
    pub(crate) ttl: Duration,
    /// ZooKeeper's number of it.
    pub(crate) id: i64,
    /// A node of the session's heartbeat_path, on which its heartbeats are written.
    pub(crate) heartbeat_path: String,
    pub(crate) heartbeat: Heartbeat,
    /// The renewal round that is made just now.
    pub(crate) round: Mutex<Option<InFlightRound>>,
    /// What is said of those who hold a lock on this session, by the paths of their nodes: their waiters of the same process
    /// need not read it.
    pub(crate) known_holders: Mutex<HashMap<String, HeldBy>>,
    pub(crate) uncontended: Uncontended,
    pub(crate) queue_reader: QueueReader,
    /// Closed when the session is over: then the client ends it at the server as well, and its nodes with it.
    client: SessionClient,
}

/// What says that a session is over.
pub(crate) enum Kind {
    /// The core, which renews it and tells its guards.
    Shared(Session),
    /// The moment until which its only lease may be believed in.
    Single(Mutex<Moment>),
}

/// The sessions of this process that carry the renewed leases, one for each TTL.
#[derive(Clone)]
pub(crate) struct SessionPool(Arc<Inner>);

struct Inner {
    opener: SessionOpener,
    tick: Duration,
    /// Below it each session has a node of its heartbeat_path.
    folder: String,
    acls: Acls<'static>,
    by_ttl: Mutex<HashMap<Duration, SharedFuture<Result<Arc<ZkSession>>>>>,
    by_key: Mutex<HashMap<u64, Weak<ZkSession>>>,
    /// The greatest transaction that any session has told of.
    latest_zxid: AtomicI64,
}

/// How many ticks a session lasts at least. Its heartbeats tell the state of a tick ago.
const MIN_TICKS: u32 = 4;

impl SessionPool {
    pub(crate) fn new(opener: SessionOpener, tick: Duration, folder: String, acls: Acls<'static>) -> SessionPool {
        let (by_ttl, by_key, latest_zxid) = Default::default();
        SessionPool(Arc::new(Inner { opener, tick, folder, acls, by_ttl, by_key, latest_zxid }))
    }

    pub(crate) fn tick(&self) -> Duration {
        self.0.tick
    }

    /// The min_ttl TTL that a lease gets.
    pub(crate) fn min_ttl(&self) -> Duration {
        self.0.tick * MIN_TICKS
    }

    /// The session for leases of this TTL; a new one if there is none, or too little of it remains.
    pub(crate) async fn for_ttl(&self, ttl: Duration) -> Result<Arc<ZkSession>> {
        let ttl = ttl.max(self.min_ttl());
        let opening = {
            let mut by_ttl = locked(&self.0.by_ttl);
            match by_ttl.get(&ttl).map(|opening| (opening, opening.peek())) {
                Some((_, Some(Ok(zk_session)))) if zk_session.is_usable() => return Ok(zk_session.clone()),
                Some((opening, None)) => opening.clone(),
                _ => {
                    let sessions = self.clone();
                    let open = async move { sessions.open(ttl, false).await };
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

    /// The carrier of this session.
    pub(crate) fn find(&self, session: &Session) -> Option<Arc<ZkSession>> {
        locked(&self.0.by_key).get(&session.key()).and_then(Weak::upgrade)
    }

    /// A session has told of this transaction.
    pub(crate) fn record_zxid(&self, zxid: i64) {
        self.0.latest_zxid.fetch_max(zxid, Ordering::AcqRel);
    }

    async fn open(&self, requested_ttl: Duration, single: bool) -> Result<Arc<ZkSession>> {
        let sessions = self.clone();
        self.0
            .opener
            .open_with(requested_ttl, move |opened| async move { sessions.establish(opened, single).await })
            .await
    }

    /// Makes a carrier of a session that was just opened.
    async fn establish(&self, opened: OpenedSession, single: bool) -> Result<Arc<ZkSession>, CallError> {
        if opened.ttl < self.min_ttl() {
            let text = format!(
                "ZooKeeper grants a session of {:?}, and a lease needs {:?}, four of its ticks: raise its maxSessionTimeout",
                opened.ttl,
                self.min_ttl()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text).into());
        }
        let clock = self.0.opener.clock();
        let id = opened.client.session_id().0;
        let session = opened.pending.established(id as u64, opened.ttl);
        let kind = if single {
            let until = clock.now().after(session.remaining());
            Kind::Single(Mutex::new(until))
        } else {
            Kind::Shared(session)
        };
        let heartbeat_path = format!("{}/{id:016x}", self.0.folder);
        let states = opened.client.state_watcher();
        let zk_session = Arc::new(ZkSession {
            kind,
            ttl: opened.ttl,
            id,
            heartbeat_path,
            heartbeat: Heartbeat::new(self.0.tick),
            round: Mutex::default(),
            known_holders: Mutex::default(),
            uncontended: Uncontended::default(),
            queue_reader: QueueReader::default(),
            client: SessionClient::new(opened.client),
        });
        // Before anything is on it: whatever becomes of this call, the session ends.
        runtime::background()?.spawn(end_when_over(Arc::downgrade(&zk_session), states, clock.clone()));
        // Each transaction is greater than all that were told of before it was asked for; else the data are others.
        let before = self.0.latest_zxid.load(Ordering::Acquire);
        let made = zk_session.create_heartbeat_node(clock, &self.0.folder, self.0.acls).await?;
        if made <= before {
            zk_session.end(clock);
            return Err(realm::stale_data().into());
        }
        self.record_zxid(made);
        if let Kind::Shared(session) = &zk_session.kind {
            let mut by_key = locked(&self.0.by_key);
            by_key.retain(|_, zk_session| zk_session.strong_count() > 0);
            by_key.insert(session.key(), Arc::downgrade(&zk_session));
        }
        Ok(zk_session)
    }
}

/// Ends a session at the server when it is over here: its client would keep it alive for ever. And when the server says
/// that it has ended, tells its guards at once.
async fn end_when_over(zk_session: Weak<ZkSession>, mut states: StateWatcher, clock: Clock) {
    loop {
        let Some(over) = zk_session.upgrade().map(|zk_session| zk_session.until_over(&clock)) else { return };
        tokio::select! {
            () = over => {}
            state = states.changed() => if is_alive(state) { continue },
        }
        let Some(zk_session) = zk_session.upgrade() else { return };
        if !is_alive(states.peek_state()) || !zk_session.is_valid(&clock) {
            zk_session.end(&clock);
            return;
        }
    }
}

impl ZkSession {
    /// By which the session is asked.
    pub(crate) fn client(&self) -> &SessionClient {
        &self.client
    }

    /// The core's session, where it is shared.
    pub(crate) fn core_session(&self) -> Option<&Session> {
        match &self.kind {
            Kind::Shared(session) => Some(session),
            Kind::Single(_) => None,
        }
    }

    /// Whether it may be believed in.
    pub(crate) fn is_valid(&self, clock: &Clock) -> bool {
        match &self.kind {
            Kind::Shared(session) => session.is_valid(),
            Kind::Single(until) => clock.now() < *locked(until),
        }
    }

    /// Whether the session may still be there at the server, as far as is known here.
    pub(crate) fn may_be_alive(&self) -> bool {
        self.client.may_be_alive()
    }

    fn is_usable(&self) -> bool {
        let enough = |session: &Session| session.is_valid() && session.remaining() > session.ttl() / 2;
        self.may_be_alive() && self.core_session().is_some_and(enough)
    }

    /// Completes when it should be looked at whether it is over.
    fn until_over(&self, clock: &Clock) -> impl Future<Output = ()> + use<> {
        let clock = clock.clone();
        let of = match &self.kind {
            Kind::Shared(session) => Ok(session.clone()),
            Kind::Single(until) => Err(*locked(until)),
        };
        async move {
            match of {
                Ok(session) => drop(session.lost().await),
                Err(until) => clock.sleep_until(until).await,
            }
        }
    }

    /// Its only lease may be believed in until then.
    pub(crate) fn extend(&self, until: Moment) {
        if let Kind::Single(noted) = &self.kind {
            let mut noted = locked(noted);
            *noted = until.max(*noted);
        }
    }

    /// It is over: every guard on it learns it, and so does the server, if it can be reached.
    pub(crate) fn end(&self, clock: &Clock) {
        match &self.kind {
            Kind::Shared(session) => session.end(LossReason::SessionEnded),
            Kind::Single(until) => {
                let mut until = locked(until);
                *until = clock.now().min(*until);
            }
        }
        // The last of a session's clients ends the session when it is dropped.
        self.client.close();
    }

    /// Makes the session's heartbeat_path node, which is its first heartbeat; gives the transaction.
    async fn create_heartbeat_node(&self, clock: &Clock, folder: &str, acls: Acls<'static>) -> Result<i64, CallError> {
        let client = self.client.client()?;
        let mode = CreateMode::Ephemeral.with_acls(acls);
        let sent = clock.now();
        let mut made = client.create(&self.heartbeat_path, b"", &mode).await;
        if made == Err(zookeeper_client::Error::NoNode) {
            make_container(&client, folder, acls).await?;
            made = client.create(&self.heartbeat_path, b"", &mode).await;
        }
        let (stat, _) = made.map_err(|failure| classify("opening a session of ZooKeeper", failure, false))?;
        self.heartbeat.record(clock, sent).await;
        Ok(stat.czxid)
    }
}

/// Makes this node and those above it, as containers: the server deletes them when they have been empty for a while.
pub(crate) async fn make_container(client: &Client, folder: &str, acls: Acls<'static>) -> Result<(), CallError> {
    let made = client.mkdir(folder, &CreateMode::Container.with_acls(acls)).await;
    made.map_err(|failure| classify("making a node of ZooKeeper", failure, false))
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ZkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
