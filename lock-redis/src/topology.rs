//! [`Topology`]: one server, a socket, sentinels or a cluster.

use std::path::PathBuf;

use lock_core::{Error, Result, StoreUrl};

/// The arrangement of the servers, and their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Topology {
    /// One server at a host and port: `redis://` and `rediss://`.
    Server(String, u16),
    /// One server of this machine at a unix socket: `redis+unix:///path`.
    Socket(PathBuf),
    /// The master that these sentinels name: `redis-sentinel://h1,h2,h3/service`.
    Sentinels {
        /// The sentinels' hosts and ports.
        hosts: Vec<(String, u16)>,
        /// The name by which they know the master.
        service: String,
    },
    /// The cluster to which these nodes belong: `redis-cluster://h1,h2,h3`.
    Cluster(Vec<(String, u16)>),
}

const DEFAULT_PORT: u16 = 6379;
const DEFAULT_SENTINEL_PORT: u16 = 26379;

impl Topology {
    /// The topology and the number of the database in a URL whose scheme is one of Redis.
    ///
    /// # Errors
    ///
    /// Invalid configuration for hosts, a path or a database that the scheme does not take.
    pub(crate) fn from_url(url: &StoreUrl) -> Result<(Topology, u32)> {
        let path = url.path().trim_start_matches('/');
        let database = |text: &str| match text {
            "" => Ok(0),
            _ => text
                .parse()
                .map_err(|_| Error::invalid_config(format!("{url} is not accepted: a database is a number"))),
        };
        let refuse = |form: &str| Err(Error::invalid_config(format!("{url} is not accepted: it takes {form}")));
        match url.scheme() {
            "redis" | "rediss" => match &url.endpoints(DEFAULT_PORT)[..] {
                [(host, port)] => Ok((Topology::Server(host.clone(), *port), database(path)?)),
                _ => refuse("one host, as in redis://host:6379/0"),
            },
            "redis+unix" => match (url.hosts(), url.path()) {
                ([], path) if path.starts_with('/') => {
                    Ok((Topology::Socket(path.into()), database(url.value("database").unwrap_or_default())?))
                }
                _ => refuse("the path of a socket, as in redis+unix:///run/redis.sock"),
            },
            "redis-sentinel" => {
                let hosts = url.endpoints(DEFAULT_SENTINEL_PORT);
                if hosts.is_empty() || path.is_empty() {
                    return refuse("sentinels and a service, as in redis-sentinel://h1,h2,h3/service");
                }
                let topology = Topology::Sentinels { hosts, service: path.to_owned() };
                Ok((topology, database(url.value("database").unwrap_or_default())?))
            }
            _ => match url.endpoints(DEFAULT_PORT) {
                hosts if !hosts.is_empty() && path.is_empty() => Ok((Topology::Cluster(hosts), 0)),
                _ => refuse("some of the cluster's hosts and no path, as in redis-cluster://h1,h2,h3"),
            },
        }
    }

    /// True if another server may take over, whatever replicas there are now.
    pub(crate) fn may_fail_over(&self) -> bool {
        matches!(self, Topology::Sentinels { .. } | Topology::Cluster(_))
    }
}
