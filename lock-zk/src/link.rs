//! [`Links`]: opens sessions of ZooKeeper.

use std::fmt;
use std::time::{Duration, Instant};

use lock_core::{Clock, Error, ErrorKind, Opening, Result, Session};
use tokio::sync::Mutex;
use zookeeper_client::{Client, Connector, SessionState};

use crate::ZkConfig;
use crate::error::judge;

/// Opens sessions of ZooKeeper, each with a connection of its own.
pub(crate) struct Links {
    config: ZkConfig,
    cluster: String,
    /// Without its `Debug`, which shows passwords.
    connector: Connector,
    /// The session by which is read what no lease depends on.
    reader: Mutex<Option<Client>>,
}

/// A session that was opened.
pub(crate) struct Link {
    pub(crate) client: Client,
    /// Read before the request for it left.
    pub(crate) opening: Opening,
    /// How long it lasts without a heartbeat, as the server granted it.
    pub(crate) ttl: Duration,
}

/// How long the reader's session lasts: as long as it likes, since nothing is on it.
const READER: Duration = Duration::from_secs(10);

impl Links {
    pub(crate) fn new(config: ZkConfig) -> Result<Links> {
        let (cluster, connector) = (config.cluster()?, config.connector()?);
        Ok(Links { config, cluster, connector, reader: Mutex::default() })
    }

    pub(crate) fn config(&self) -> &ZkConfig {
        &self.config
    }

    /// Opens a session that lasts this long, or what the server makes of it.
    pub(crate) async fn open(&self, clock: &Clock, ttl: Duration) -> Result<Link> {
        self.opened(clock, ttl, self.connector.clone()).await
    }

    /// As [`open`](Links::open), but left alone the session lasts until it has had no heartbeat for its time.
    pub(crate) async fn open_detached(&self, clock: &Clock, ttl: Duration) -> Result<Link> {
        self.opened(clock, ttl, self.connector.clone().with_detached()).await
    }

    /// Opens a session. The client asks each server once, and each for as long as one may be silent. Where a server was
    /// silent, and not gone, all are asked again; a server that is busy answers late.
    async fn opened(&self, clock: &Clock, ttl: Duration, connector: Connector) -> Result<Link> {
        // What the protocol has room for.
        let ttl = ttl.min(Duration::from_millis(i32::MAX.unsigned_abs().into()));
        let silence = self.config.silence(ttl);
        let connector = connector.with_session_timeout(ttl).with_connection_timeout(silence);
        let begun = Instant::now();
        loop {
            let (opening, asked) = (Session::opening(clock), Instant::now());
            let connector = connector.clone();
            let connect = async {
                match &self.config.tls {
                    None => connector.connect(&self.cluster).await,
                    Some(_) => connector.secure_connect(&self.cluster).await,
                }
            };
            let left = self.config.connect_timeout.saturating_sub(begun.elapsed());
            let failed = match tokio::time::timeout(left, connect).await {
                Ok(Ok(client)) => return Ok(Link { ttl: client.session_timeout(), client, opening }),
                Ok(Err(failure)) => judge("opening a session of ZooKeeper", failure, false).error,
                Err(_) => self.not_opened("none of them answers"),
            };
            let silent = asked.elapsed() >= silence / 2;
            if !failed.is_retryable() || !silent || begun.elapsed() >= self.config.connect_timeout {
                return Err(match failed.kind() {
                    ErrorKind::Unavailable => {
                        self.not_opened("none of them can be reached, or they refuse this client")
                    }
                    _ => failed,
                });
            }
        }
    }

    fn not_opened(&self, why: &str) -> Error {
        let text = format!("no session of ZooKeeper was opened at {}: {why}", self.cluster);
        Error::refused(ErrorKind::Unavailable, text)
    }

    /// The session by which is read what no lease depends on; opened if there is none.
    pub(crate) async fn reader(&self, clock: &Clock) -> Result<Client> {
        let mut reader = self.reader.lock().await;
        if let Some(client) = reader.as_ref().filter(|client| is_alive(client.state())) {
            return Ok(client.clone());
        }
        let link = self.open(clock, READER).await?;
        Ok(reader.insert(link.client).clone())
    }

    /// Forgets the reader's session, which has ended.
    pub(crate) async fn drop_reader(&self) {
        self.reader.lock().await.take();
    }

    /// The servers' tick: half of the shortest session that they give.
    pub(crate) async fn tick(&self, clock: &Clock) -> Result<Duration> {
        match self.config.tick {
            Some(tick) => Ok(tick),
            None => Ok(self.open(clock, SHORTEST_ASKED).await?.ttl / 2),
        }
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
        f.debug_struct("Links").field("config", &self.config).finish_non_exhaustive()
    }
}
