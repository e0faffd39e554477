//! [`SessionOpener`]: opens sessions of ZooKeeper.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared, join_all};
use lock_core::{Clock, Error, ErrorKind, PendingSession, Realm, Result, Session};
use zookeeper_client::{Client, Connector, SessionState};

use crate::ZkConfig;
use crate::error::{CallError, classify};
use crate::limit::ConcurrencyLimit;
use crate::realm::RealmNode;
use crate::resolver::{Resolved, ServerResolver};
use crate::session::locked;
use crate::session_client::SessionClient;

/// Opens sessions of ZooKeeper, each with a connection of its own.
///
/// They live on the background runtime, since what is on them outlives whichever runtime of the program opened them. On
/// each it is looked at whose data it is of, before anything else is asked by it.
#[derive(Clone)]
pub(crate) struct SessionOpener(Arc<Inner>);

struct Inner {
    config: ZkConfig,
    resolver: ServerResolver,
    /// Without its `Debug`, which shows passwords.
    connector: Connector,
    clock: Clock,
    realm_node: RealmNode,
    open_limit: ConcurrencyLimit,
    /// The session by which is read what no lease depends on.
    reader: Mutex<Option<SharedFuture<Result<SessionClient>>>>,
}

/// A session that was opened.
pub(crate) struct OpenedSession {
    pub(crate) client: Client,
    /// Read before the request for it left.
    pub(crate) pending: PendingSession,
    /// How long it lasts without a heartbeat, as the server granted it.
    pub(crate) ttl: Duration,
}

/// Something that is opened once for all who wait for it, whoever of them is there when it is.
pub(crate) type SharedFuture<T> = Shared<BoxFuture<'static, T>>;

/// How long the reader's session lasts: as long as it likes, since nothing is on it.
const READ_SESSION_TTL: Duration = Duration::from_secs(10);

/// How many sessions are opened at once.
const MAX_CONCURRENT_OPENS: usize = 16;

/// How long a server may be silent that is only looked at for whether it belongs to the others. It may be down.
const ENSEMBLE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// An address of several has this part of the time for opening a session to answer in.
const ADDRESS_TIMEOUT_DIVISOR: u32 = 4;

impl SessionOpener {
    pub(crate) fn new(config: ZkConfig, clock: &Clock, realm_node: RealmNode) -> Result<SessionOpener> {
        let resolver = ServerResolver::new(&config)?;
        let (connector, clock, open_limit) =
            (config.connector()?, clock.clone(), ConcurrencyLimit::new(MAX_CONCURRENT_OPENS));
        let reader = Mutex::default();
        Ok(SessionOpener(Arc::new(Inner { config, resolver, connector, clock, realm_node, open_limit, reader })))
    }

    pub(crate) fn config(&self) -> &ZkConfig {
        &self.0.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn realm_node(&self) -> &RealmNode {
        &self.0.realm_node
    }

    /// Opens a session that lasts this long, or what the server makes of it.
    pub(crate) async fn open(&self, ttl: Duration) -> Result<OpenedSession> {
        self.open_with(ttl, |opened| async { Ok(opened) }).await
    }

    /// Opens a session, and does what must be done on it before it is of use.
    pub(crate) async fn open_with<T, F>(
        &self,
        ttl: Duration,
        then: impl FnOnce(OpenedSession) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        self.open_through(ttl, self.0.connector.clone(), then).await
    }

    /// As [`open`](Links::open), but left alone the session lasts until it has had no heartbeat for its time.
    pub(crate) async fn open_detached(&self, ttl: Duration) -> Result<OpenedSession> {
        self.open_through(ttl, self.0.connector.clone().with_detached(), |opened| async { Ok(opened) }).await
    }

    /// Within the time for an opening, and not with more than a few others.
    async fn open_through<T, F>(
        &self,
        ttl: Duration,
        connector: Connector,
        then: impl FnOnce(OpenedSession) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let inner = self.0.clone();
        let opening = async move {
            let opening = async {
                let opened = inner.open_client(ttl, connector).await?;
                inner.realm_node.check(&opened.client).await?;
                then(opened).await
            };
            inner.with_timeout(inner.config.connect_timeout, opening).await
        };
        Ok(self.0.open_limit.run(opening).await?)
    }

    /// The session by which is read what no lease depends on; opened if there is none.
    pub(crate) async fn reader(&self) -> Result<SessionClient> {
        let opening = {
            let mut reader = locked(&self.0.reader);
            let is_usable = |opening: &&SharedFuture<Result<SessionClient>>| match opening.peek() {
                None => true,
                Some(Ok(client)) => client.may_be_alive(),
                Some(Err(_)) => false,
            };
            match reader.as_ref().filter(is_usable) {
                Some(opening) => opening.clone(),
                None => {
                    let opener = self.clone();
                    let open = async move { Ok(SessionClient::new(opener.open(READ_SESSION_TTL).await?.client)) };
                    reader.insert(open.boxed().shared()).clone()
                }
            }
        };
        opening.await
    }

    /// Forgets the reader's session, which has ended.
    pub(crate) fn forget_reader(&self) {
        locked(&self.0.reader).take();
    }

    /// The servers' tick: half of the shortest session that they give.
    pub(crate) async fn measure_tick(&self) -> Result<Duration> {
        match self.0.config.tick {
            Some(tick) => Ok(tick),
            None => Ok(self.open(MIN_REQUESTED_TTL).await?.ttl / 2),
        }
    }

    /// Checks that all servers that are named are of one ensemble, as far as they can be reached: two programs that found
    /// different ones would not exclude each other.
    pub(crate) async fn check_one_ensemble(&self) -> Result<()> {
        let servers = self.0.resolver.all();
        if servers.len() < 2 {
            return Ok(());
        }
        let realms = join_all(servers.iter().map(|server| self.read_realm_at(server))).await;
        let mut found = servers.iter().zip(realms).filter_map(|(server, realm)| Some((server, realm.ok()?)));
        let Some((first, realm)) = found.next() else { return Ok(()) };
        match found.find(|(_, other)| *other != realm) {
            None => Ok(()),
            Some((other, differs)) => {
                let shown = |realm: Option<Realm>| realm.map_or("none".to_owned(), |realm| realm.to_string());
                let text = format!(
                    "{first} and {other} are not of one ZooKeeper: the realm is {} there and {} here; name the servers of \
                     one",
                    shown(realm),
                    shown(differs)
                );
                Err(Error::refused(ErrorKind::InvalidConfig, text))
            }
        }
    }

    /// What one server says, if it says it soon.
    async fn read_realm_at(&self, server: &str) -> Result<Option<Realm>> {
        let (inner, server) = (self.0.clone(), server.to_owned());
        let read = async move {
            let limit = ENSEMBLE_CHECK_TIMEOUT.min(inner.config.connect_timeout);
            let read = async {
                let resolved = inner.resolver.resolve(&[server], limit / ADDRESS_TIMEOUT_DIVISOR).await;
                let client = inner.connect(inner.connector.clone(), READ_SESSION_TTL, &resolved).await?;
                inner.realm_node.read(&client).await
            };
            inner.with_timeout(limit, read).await
        };
        Ok(self.0.open_limit.run(read).await?)
    }
}

impl Inner {
    async fn with_timeout<T>(
        &self,
        limit: Duration,
        opening: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(self.cannot_open("none of them answers", &[]).into()),
        }
    }

    /// Opens a session. The client asks each server once, and each for as long as one may be silent. Where a server was
    /// silent, and not gone, all are asked again; a server that is busy answers late.
    async fn open_client(&self, ttl: Duration, connector: Connector) -> Result<OpenedSession, CallError> {
        // What the protocol has room for.
        let ttl = ttl.min(Duration::from_millis(i32::MAX.unsigned_abs().into()));
        let response_timeout = self.config.response_timeout(ttl);
        loop {
            let resolved = self.resolver.resolve_all(self.config.connect_timeout / ADDRESS_TIMEOUT_DIVISOR).await;
            if resolved.failures.len() == self.resolver.all().len() {
                return Err(self.cannot_open("no host is known", &resolved.failures).into());
            }
            let (pending, began) = (Session::start(&self.clock), Instant::now());
            let failed = match self.connect(connector.clone(), ttl, &resolved).await {
                Ok(client) => return Ok(OpenedSession { ttl: client.session_timeout(), client, pending }),
                Err(failed) => failed,
            };
            if !failed.error.is_retryable() || began.elapsed() < response_timeout / 2 {
                return Err(match failed.error.kind() {
                    ErrorKind::Unavailable => {
                        let why = "none of them can be reached, or they refuse this client";
                        self.cannot_open(why, &resolved.failures).into()
                    }
                    _ => failed,
                });
            }
        }
    }

    async fn connect(&self, connector: Connector, ttl: Duration, resolved: &Resolved) -> Result<Client, CallError> {
        let connector = connector.with_session_timeout(ttl).with_connection_timeout(self.config.response_timeout(ttl));
        let client = match &self.config.tls {
            None => connector.connect(&resolved.connect_string).await,
            Some(_) => connector.secure_connect(&resolved.connect_string).await,
        };
        client.map_err(|failure| classify("opening a session of ZooKeeper", failure, false))
    }

    fn cannot_open(&self, why: &str, failures: &[String]) -> Error {
        let servers = self.resolver.all().join(",");
        let failures: String = failures.iter().map(|failure| format!("; {failure}")).collect();
        let text = format!("no session of ZooKeeper was opened at {servers}: {why}{failures}");
        Error::refused(ErrorKind::Unavailable, text)
    }
}

/// The shortest session that is asked for: a shorter one is opened too slowly on a busy machine.
const MIN_REQUESTED_TTL: Duration = Duration::from_secs(1);

/// Whether a session in this state may still be there, as far as its client knows, which learns it late.
pub(crate) fn is_alive(state: SessionState) -> bool {
    !state.is_terminated()
}

impl fmt::Debug for SessionOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("config", &self.0.config).finish_non_exhaustive()
    }
}
