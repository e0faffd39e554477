//! [`Links`]: opens sessions of ZooKeeper.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::{BoxFuture, FutureExt as _, Shared, join_all};
use lock_core::{Clock, Error, ErrorKind, PendingSession, Realm, Result, Session};
use zookeeper_client::{Client, Connector, SessionState};

use crate::ZkConfig;
use crate::error::{CallError, judge};
use crate::gate::Gate;
use crate::realm::Whose;
use crate::servers::{Found, Servers};
use crate::session::locked;
use crate::wire::Wire;

/// Opens sessions of ZooKeeper, each with a connection of its own.
///
/// They live on the background runtime, since what is on them outlives whichever runtime of the program opened them. On
/// each it is looked at whose data it is of, before anything else is asked by it.
#[derive(Clone)]
pub(crate) struct Links(Arc<Inner>);

struct Inner {
    config: ZkConfig,
    servers: Servers,
    /// Without its `Debug`, which shows passwords.
    connector: Connector,
    clock: Clock,
    whose: Whose,
    openings: Gate,
    /// The session by which is read what no lease depends on.
    reader: Mutex<Option<Coming<Wire>>>,
}

/// A session that was opened.
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Read before the request for it left.
    pub(crate) opening: PendingSession,
    /// How long it lasts without a heartbeat, as the server granted it.
    pub(crate) ttl: Duration,
}

/// Something that is opened once for all who wait for it, whoever of them is there when it is.
pub(crate) type Coming<T> = Shared<BoxFuture<'static, Result<T>>>;

/// How long the reader's session lasts: as long as it likes, since nothing is on it.
const READER: Duration = Duration::from_secs(10);

/// How many sessions are opened at once.
const OPENINGS: usize = 16;

/// How long a server may be silent that is only looked at for whether it belongs to the others. It may be down.
const PATIENCE: Duration = Duration::from_secs(2);

/// An address of several has this part of the time for opening a session to answer in.
const FINDING: u32 = 4;

impl Links {
    pub(crate) fn new(config: ZkConfig, clock: &Clock, whose: Whose) -> Result<Links> {
        let servers = Servers::new(&config)?;
        let (connector, clock, openings) = (config.connector()?, clock.clone(), Gate::of(OPENINGS));
        let reader = Mutex::default();
        Ok(Links(Arc::new(Inner { config, servers, connector, clock, whose, openings, reader })))
    }

    pub(crate) fn config(&self) -> &ZkConfig {
        &self.0.config
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.0.clock
    }

    pub(crate) fn whose(&self) -> &Whose {
        &self.0.whose
    }

    /// Opens a session that lasts this long, or what the server makes of it.
    pub(crate) async fn open(&self, ttl: Duration) -> Result<Link> {
        self.open_and(ttl, |link| async { Ok(link) }).await
    }

    /// Opens a session, and does what must be done on it before it is of use.
    pub(crate) async fn open_and<T, F>(&self, ttl: Duration, then: impl FnOnce(Link) -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        self.opening(ttl, self.0.connector.clone(), then).await
    }

    /// As [`open`](Links::open), but left alone the session lasts until it has had no heartbeat for its time.
    pub(crate) async fn open_detached(&self, ttl: Duration) -> Result<Link> {
        self.opening(ttl, self.0.connector.clone().with_detached(), |link| async { Ok(link) }).await
    }

    /// Within the time for an opening, and not with more than a few others.
    async fn opening<T, F>(
        &self,
        ttl: Duration,
        connector: Connector,
        then: impl FnOnce(Link) -> F + Send + 'static,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let inner = self.0.clone();
        let opening = async move {
            let opening = async {
                let link = inner.opened(ttl, connector).await?;
                inner.whose.check(&link.client).await?;
                then(link).await
            };
            inner.in_time(inner.config.connect_timeout, opening).await
        };
        Ok(self.0.openings.pass(opening).await?)
    }

    /// The session by which is read what no lease depends on; opened if there is none.
    pub(crate) async fn reader(&self) -> Result<Wire> {
        let coming = {
            let mut reader = locked(&self.0.reader);
            let is_of_use = |coming: &&Coming<Wire>| match coming.peek() {
                None => true,
                Some(Ok(wire)) => wire.may_stand(),
                Some(Err(_)) => false,
            };
            match reader.as_ref().filter(is_of_use) {
                Some(coming) => coming.clone(),
                None => {
                    let links = self.clone();
                    let opening = async move { Ok(Wire::new(links.open(READER).await?.client)) };
                    reader.insert(opening.boxed().shared()).clone()
                }
            }
        };
        coming.await
    }

    /// Forgets the reader's session, which has ended.
    pub(crate) fn drop_reader(&self) {
        locked(&self.0.reader).take();
    }

    /// The servers' tick: half of the shortest session that they give.
    pub(crate) async fn tick(&self) -> Result<Duration> {
        match self.0.config.tick {
            Some(tick) => Ok(tick),
            None => Ok(self.open(SHORTEST_ASKED).await?.ttl / 2),
        }
    }

    /// Checks that all servers that are named are of one ensemble, as far as they can be reached: two programs that found
    /// different ones would not exclude each other.
    pub(crate) async fn check_servers(&self) -> Result<()> {
        let servers = self.0.servers.all();
        if servers.len() < 2 {
            return Ok(());
        }
        let realms = join_all(servers.iter().map(|server| self.realm_at(server))).await;
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
    async fn realm_at(&self, server: &str) -> Result<Option<Realm>> {
        let (inner, server) = (self.0.clone(), server.to_owned());
        let asking = async move {
            let limit = PATIENCE.min(inner.config.connect_timeout);
            let asked = async {
                let found = inner.servers.find_of(&[server], limit / FINDING).await;
                let client = inner.connect(inner.connector.clone(), READER, &found).await?;
                inner.whose.read(&client).await
            };
            inner.in_time(limit, asked).await
        };
        Ok(self.0.openings.pass(asking).await?)
    }
}

impl Inner {
    async fn in_time<T>(
        &self,
        limit: Duration,
        opening: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(limit, opening).await {
            Ok(opened) => opened,
            Err(_) => Err(self.not_opened("none of them answers", &[]).into()),
        }
    }

    /// Opens a session. The client asks each server once, and each for as long as one may be silent. Where a server was
    /// silent, and not gone, all are asked again; a server that is busy answers late.
    async fn opened(&self, ttl: Duration, connector: Connector) -> Result<Link, CallError> {
        // What the protocol has room for.
        let ttl = ttl.min(Duration::from_millis(i32::MAX.unsigned_abs().into()));
        let silence = self.config.silence(ttl);
        loop {
            let found = self.servers.find(self.config.connect_timeout / FINDING).await;
            if found.unknown.len() == self.servers.all().len() {
                return Err(self.not_opened("no host is known", &found.unknown).into());
            }
            let (opening, asked) = (Session::start(&self.clock), Instant::now());
            let failed = match self.connect(connector.clone(), ttl, &found).await {
                Ok(client) => return Ok(Link { ttl: client.session_timeout(), client, opening }),
                Err(failed) => failed,
            };
            if !failed.error.is_retryable() || asked.elapsed() < silence / 2 {
                return Err(match failed.error.kind() {
                    ErrorKind::Unavailable => {
                        let why = "none of them can be reached, or they refuse this client";
                        self.not_opened(why, &found.unknown).into()
                    }
                    _ => failed,
                });
            }
        }
    }

    async fn connect(&self, connector: Connector, ttl: Duration, found: &Found) -> Result<Client, CallError> {
        let connector = connector.with_session_timeout(ttl).with_connection_timeout(self.config.silence(ttl));
        let client = match &self.config.tls {
            None => connector.connect(&found.cluster).await,
            Some(_) => connector.secure_connect(&found.cluster).await,
        };
        client.map_err(|failure| judge("opening a session of ZooKeeper", failure, false))
    }

    fn not_opened(&self, why: &str, unknown: &[String]) -> Error {
        let servers = self.servers.all().join(",");
        let unknown: String = unknown.iter().map(|unknown| format!("; {unknown}")).collect();
        let text = format!("no session of ZooKeeper was opened at {servers}: {why}{unknown}");
        Error::refused(ErrorKind::Unavailable, text)
    }
}

/// The shortest session that is asked for: a shorter one is opened too slowly on a busy machine.
const SHORTEST_ASKED: Duration = Duration::from_secs(1);

/// Whether a session in this state may still be there, as far as its client knows, which learns it late.
pub(crate) fn is_alive(state: SessionState) -> bool {
    !state.is_terminated()
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").field("config", &self.0.config).finish_non_exhaustive()
    }
}
