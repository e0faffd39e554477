//! [`Diagnosis`]: the state of an ensemble, for operators.

use std::time::Duration;

use lock_core::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zookeeper_client::Error as ZkError;

use crate::acl::is_open;
use crate::error::classify;
use crate::opener::MAX_SESSION_TTL;
use crate::store::ZkStore;

/// The state of an ensemble, for operators.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The servers that this store uses.
    pub servers: Vec<ServerDiagnosis>,
    /// The number of voting servers.
    pub voters: usize,
    /// The number of voting servers that must answer.
    pub quorum: usize,
    /// The servers' tick, as configured or derived from the shortest session.
    pub tick: Duration,
    /// The shortest TTL that a lease gets: shorter ones are raised to it.
    pub shortest_ttl: Duration,
    /// The longest TTL that the servers grant: longer ones are lowered to it.
    pub longest_ttl: Duration,
    /// `true` if anybody who reaches the servers may delete the locks.
    pub open: bool,
}

/// The state of one server, as it answers the four-letter word `srvr`, which it may not allow.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerDiagnosis {
    /// Its address, as `host:port`.
    pub server: String,
    /// Its version, if it says so.
    pub version: Option<String>,
    /// `leader`, `follower` or `standalone`, if it says so.
    pub mode: Option<String>,
    /// The number of connected clients, if it says so.
    pub connections: Option<u64>,
    /// The reason if it did not answer.
    pub failure: Option<String>,
}

impl ZkStore {
    /// Asks every server for its state.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](lock_core::LockStore::inspect), if the ensemble as a whole does not
    /// answer.
    ///
    /// # Cancel safety
    ///
    /// It leaves at most a session that ends by itself.
    pub async fn diagnose(&self) -> Result<Diagnosis> {
        let mut servers = Vec::new();
        for server in &self.opener.config().servers {
            servers.push(self.diagnose_server(server).await);
        }
        let base = self.layout.base().to_owned();
        let acl = self.read(move |client| {
            let base = base.clone();
            async move {
                match client.get_acl(&base).await {
                    Err(ZkError::NoNode | ZkError::NoAuth) => Ok(Vec::new()),
                    acl => {
                        acl.map(|(acl, _)| acl).map_err(|failure| classify("reading who may do what", failure, false))
                    }
                }
            }
        });
        let open = acl.await?.iter().any(is_open);
        let longest_ttl = self.opener.open(MAX_SESSION_TTL).await?.ttl;
        Ok(Diagnosis {
            servers,
            voters: self.voters,
            quorum: self.voters / 2 + 1,
            tick: self.factory.tick(),
            shortest_ttl: self.factory.min_ttl(),
            longest_ttl,
            open,
        })
    }

    async fn diagnose_server(&self, server: &str) -> ServerDiagnosis {
        let answer = tokio::time::timeout(self.opener.config().connect_timeout, srvr(server)).await;
        let unanswered = |failure: String| ServerDiagnosis {
            server: server.to_owned(),
            version: None,
            mode: None,
            connections: None,
            failure: Some(failure),
        };
        if self.opener.config().tls.is_some() {
            return unanswered("four-letter words are asked for without TLS only".into());
        }
        match answer {
            Err(_) => unanswered("no answer".into()),
            Ok(Err(error)) => unanswered(error.to_string()),
            Ok(Ok(text)) => {
                let line = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
                let Some(version) = line("Zookeeper version:") else {
                    return unanswered(text.lines().next().unwrap_or("an empty answer").to_owned());
                };
                let version = version.split([',', '-']).next().unwrap_or(version).to_owned();
                ServerDiagnosis {
                    server: server.to_owned(),
                    version: Some(version),
                    mode: line("Mode:").map(str::to_owned),
                    connections: line("Connections:").and_then(|count| count.parse().ok()),
                    failure: None,
                }
            }
        }
    }
}

/// The most bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

async fn srvr(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"srvr").await?;
    let mut text = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut text).await?;
    Ok(text)
}
