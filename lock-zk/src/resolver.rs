//! [`ServerResolver`]: resolves the names of servers to addresses that answer.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use lock_core::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::ZkConfig;

/// Resolves the names of servers to addresses that answer.
///
/// The client takes a name for one server, and tries only the first of its addresses if that one is
/// silent. So for a name with several addresses it gets those that answer. A name with one address
/// stays a name: the client resolves it again whenever it connects, and follows a server that
/// moves.
#[derive(Debug)]
pub(crate) struct ServerResolver {
    /// The configured servers, as `host:port`.
    all: Vec<String>,
    secure: bool,
    /// The addresses of names in a test. All other names are resolved by the system.
    overrides: HashMap<String, Vec<SocketAddr>>,
}

/// The servers for one opening of a session.
pub(crate) struct Resolved {
    /// The servers in one text, as the client takes them.
    pub(crate) connect_string: String,
    /// The reasons why names were not resolved, for people.
    pub(crate) failures: Vec<String>,
}

/// One configured server, resolved.
struct ResolvedServer {
    endpoints: Vec<String>,
    failure: Option<String>,
}

impl ServerResolver {
    pub(crate) fn new(config: &ZkConfig) -> Result<ServerResolver> {
        config.connect_string()?;
        Ok(ServerResolver { all: config.servers.clone(), secure: config.tls.is_some(), overrides: HashMap::new() })
    }

    /// The configured servers, as `host:port`.
    pub(crate) fn all(&self) -> &[String] {
        &self.all
    }

    /// Resolves all servers. A name has twice this time to be resolved, an address this time to
    /// answer.
    pub(crate) async fn resolve_all(&self, timeout: Duration) -> Resolved {
        self.resolve(&self.all, timeout).await
    }

    /// Resolves these servers: see [`resolve_all`](ServerResolver::resolve_all).
    pub(crate) async fn resolve(&self, servers: &[String], timeout: Duration) -> Resolved {
        let resolved = join_all(servers.iter().map(|server| self.resolve_one(server, timeout))).await;
        let (mut endpoints, mut failures) = (Vec::new(), Vec::new());
        for server in resolved {
            endpoints.extend(server.endpoints);
            failures.extend(server.failure);
        }
        Resolved { connect_string: endpoints.join(","), failures }
    }

    async fn resolve_one(&self, server: &str, timeout: Duration) -> ResolvedServer {
        let unresolved = |failure| ResolvedServer { endpoints: vec![server.to_owned()], failure };
        let (host, port) = split(server);
        if host.parse::<IpAddr>().is_ok() {
            return unresolved(None);
        }
        let addresses = match tokio::time::timeout(timeout * 2, self.look_up(host, port)).await {
            Ok(Ok(addresses)) => addresses,
            Ok(Err(error)) => return unresolved(Some(format!("{host} is not known: {error}"))),
            Err(_) => return unresolved(Some(format!("{host} is not known: nobody said it in time"))),
        };
        // TLS needs the name, since the certificate is of the name; the first address must answer
        // then.
        if self.secure || addresses.len() < 2 {
            return unresolved(None);
        }
        let responding = join_all(addresses.iter().map(|address| responds(*address, timeout))).await;
        let mut endpoints: Vec<String> = addresses
            .iter()
            .zip(&responding)
            .filter(|(_, responding)| **responding)
            .map(|(address, _)| address.to_string())
            .collect();
        if endpoints.is_empty() {
            endpoints = addresses.iter().map(SocketAddr::to_string).collect();
        }
        if responding[0] {
            endpoints[0] = server.to_owned();
        }
        ResolvedServer { endpoints, failure: None }
    }

    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match self.overrides.get(host) {
            Some(overrides) => Ok(overrides.clone()),
            None => Ok(tokio::net::lookup_host((host, port)).await?.collect()),
        }
    }
}

/// Returns `true` if a server answers at this address, also if it refuses the four-letter word.
async fn responds(address: SocketAddr, timeout: Duration) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"srvr").await?;
        stream.read_u8().await
    };
    matches!(tokio::time::timeout(timeout, probe).await, Ok(Ok(_)))
}

/// The host and the port of a server; without a port, the client's default.
fn split(server: &str) -> (&str, u16) {
    match server.rsplit_once(':') {
        Some((host, port)) if !host.ends_with(':') => {
            (host.trim_start_matches('[').trim_end_matches(']'), port.parse().unwrap_or(DEFAULT_PORT))
        }
        _ => (server.trim_start_matches('[').trim_end_matches(']'), DEFAULT_PORT),
    }
}

const DEFAULT_PORT: u16 = 2181;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use lock_testkit::ZooKeeper;

    use super::*;

    fn resolver(server: &str, overrides: &[(&str, Vec<SocketAddr>)]) -> ServerResolver {
        let overrides = overrides.iter().map(|(name, addresses)| ((*name).to_owned(), addresses.clone())).collect();
        ServerResolver { all: vec![server.to_owned()], secure: false, overrides }
    }

    #[test]
    fn a_server_is_a_host_and_a_port_in_every_form_of_them() {
        for (server, host, port) in [
            ("a.example:77", "a.example", 77),
            ("a.example", "a.example", 2181),
            ("10.0.0.1:77", "10.0.0.1", 77),
            ("[::1]:77", "::1", 77),
            ("[::1]", "::1", 2181),
        ] {
            assert_eq!(split(server), (host, port));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_name_with_several_addresses_those_that_are_silent_are_passed_over() {
        let zookeeper = ZooKeeper::start(1);
        let responding: SocketAddr = zookeeper.endpoints()[0].parse().expect("an address");
        // It accepts connections, and never answers.
        let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a listener");
        let silent = silent.local_addr().expect("an address");
        let gone: SocketAddr = "127.0.0.1:1".parse().expect("an address");
        let servers = resolver("many:1", &[("many", vec![silent, gone, responding])]);
        let found = servers.resolve_all(Duration::from_secs(5)).await;
        assert_eq!((found.connect_string, found.failures.len()), (responding.to_string(), 0));
        // While the first address answers, the name is kept, and follows a server that moves.
        let servers = resolver("many:1", &[("many", vec![responding, silent])]);
        assert_eq!(servers.resolve_all(Duration::from_secs(5)).await.connect_string, "many:1");
        // If none answers, all are tried.
        let servers = resolver("many:1", &[("many", vec![gone, silent])]);
        assert_eq!(servers.resolve_all(Duration::from_millis(500)).await.connect_string, format!("{gone},{silent}"));
    }

    #[tokio::test]
    async fn a_name_with_one_address_stays_a_name() {
        let servers = resolver("one:77", &[("one", vec!["127.0.0.1:1".parse().expect("an address")])]);
        assert_eq!(servers.resolve_all(Duration::from_secs(5)).await.connect_string, "one:77");
    }
}
