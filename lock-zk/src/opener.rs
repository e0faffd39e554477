//! [`SessionOpener`]: opens sessions of ZooKeeper.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{FutureExt as _, join_all};
use lock_core::kit::locked;
use lock_core::{Clock, Error, ErrorKind, PendingSession, Realm, Result, Session};
use zookeeper_client::{Client, Connector};

use crate::config::ZkConfig;
use crate::error::{CallError, classify};
use crate::limit::ConcurrencyLimit;
use crate::realm::RealmNode;
use crate::resolver::{Resolved, ServerResolver};
use crate::session_client::SessionClient;
use crate::sync::SharedFuture;

/// Opens sessions of ZooKeeper, each with a connection of its own.
///
/// They live on the background runtime, since the leases on them outlive whichever runtime of the
/// program opened them. On each new session the realm is checked before anything else is asked.
#[derive(Clone)]
pub(crate) struct SessionOpener(Arc<Inner>);

struct Inner {
    config: ZkConfig,
    resolver: ServerResolver,
    /// Never shown: its `Debug` has passwords.
    connector: Connector,
    clock: Clock,
    realm_node: RealmNode,
    open_limit: ConcurrencyLimit,
    /// The read session: for reads on which no lease depends.
    reader: Mutex<Option<SharedFuture<Result<SessionClient>>>>,
}

/// A session that was just opened.
pub(crate) struct OpenedSession {
    pub(crate) client: Client,
    /// Started before the request was sent.
    pub(crate) pending: PendingSession,
    /// The TTL that the server granted.
    pub(crate) ttl: Duration,
}

/// The TTL of the read session. Nothing is on it, so that any does.
const READ_SESSION_TTL: Duration = Duration::from_secs(10);

/// The longest TTL that the protocol can express.
pub(crate) const MAX_SESSION_TTL: Duration = Duration::from_millis(i32::MAX.unsigned_abs() as u64);

/// The shortest TTL that is asked for: a shorter session is opened too slowly on a busy machine.
const MIN_REQUESTED_TTL: Duration = Duration::from_secs(1);

/// The most sessions that are opened at once.
const MAX_CONCURRENT_OPENS: usize = 16;

/// The time for a server to say which ensemble it is of. It may be down.
const ENSEMBLE_CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// Each of several addresses of one name has this part of the time for an opening to answer.
const ADDRESS_TIMEOUT_DIVISOR: u32 = 4;

impl OpenedSession {
    /// ZooKeeper's number of the session.
    pub(crate) fn id(&self) -> i64 {
        self.client.session_id().0
    }
}

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

    /// Opens a session of this TTL, or the nearest that the server grants.
    pub(crate) async fn open(&self, ttl: Duration) -> Result<OpenedSession> {
        self.open_with(ttl, |opened| async { Ok(opened) }).await
    }

    /// Opens a session, and runs `then` on it within the same time limit.
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

    /// Opens a session that lasts for its TTL after its client is dropped, since the client does
    /// not close it.
    pub(crate) async fn open_detached(&self, ttl: Duration) -> Result<OpenedSession> {
        self.open_through(ttl, self.0.connector.clone().with_detached(), |opened| async { Ok(opened) }).await
    }

    /// Opens a session within `connect_timeout`, with a bound on the openings at once.
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

    /// The read session; opened if there is none, or it has ended.
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

    /// Forgets the read session, which has ended.
    pub(crate) fn forget_reader(&self) {
        locked(&self.0.reader).take();
    }

    /// The servers' tick, as configured; else half of the shortest session that they grant.
    pub(crate) async fn measure_tick(&self) -> Result<Duration> {
        match self.0.config.tick {
            Some(tick) => Ok(tick),
            None => Ok(self.open(MIN_REQUESTED_TTL).await?.ttl / 2),
        }
    }

    /// Checks that all configured servers that can be reached are of one ensemble: two programs
    /// that found different ones would not exclude each other.
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
                    "{first} and {other} are not of one ZooKeeper: the realm is {} there and {} here; name the \
                     servers of one",
                    shown(realm),
                    shown(differs)
                );
                Err(Error::invalid_config(text))
            }
        }
    }

    /// Reads the realm from one server.
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
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, work).await {
            Ok(result) => result,
            Err(_) => Err(self.cannot_open("none of them answers", &[]).into()),
        }
    }

    /// Opens a session.
    ///
    /// The client tries each server once, each for the response timeout. If one was silent, and not
    /// down, all are tried again: a busy server answers late.
    async fn open_client(&self, ttl: Duration, connector: Connector) -> Result<OpenedSession, CallError> {
        let ttl = ttl.min(MAX_SESSION_TTL);
        let response_timeout = self.config.response_timeout_of(ttl);
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
        let connector =
            connector.with_session_timeout(ttl).with_connection_timeout(self.config.response_timeout_of(ttl));
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

impl fmt::Debug for SessionOpener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOpener").field("config", &self.0.config).finish_non_exhaustive()
    }
}
