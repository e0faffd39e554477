//! [`Connector`]: opens connections.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Effect, Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo,
    TlsCertificates,
};

use crate::config::RedisConfig;
use crate::endpoint::Endpoint;
use crate::error;
use crate::subscriptions::Subscriptions;
use crate::tls::load_certificates;
use crate::topology::Topology;

/// Opens connections to one endpoint: address, login, TLS and time limit.
#[derive(Clone)]
pub(crate) struct Connector {
    endpoint: Endpoint,
    tls: Option<TlsCertificates>,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    timeout: Duration,
    is_cluster: bool,
}

impl Connector {
    /// A connector for a configuration. For a cluster it leads to the first seed.
    ///
    /// # Errors
    ///
    /// Invalid configuration if the certificates cannot be read.
    pub(crate) fn new(config: &RedisConfig) -> Result<Connector> {
        let endpoint = match &config.topology {
            Topology::Server(host, port) => Endpoint::Address(host.clone(), *port),
            Topology::Socket(path) => Endpoint::Socket(path.clone()),
            Topology::Sentinels { hosts, service } => {
                Endpoint::Master { sentinels: hosts.clone(), service: service.clone() }
            }
            Topology::Cluster(hosts) => {
                let Some((host, port)) = hosts.first() else {
                    return Err(Error::invalid_config("a cluster needs one host at least"));
                };
                Endpoint::Address(host.clone(), *port)
            }
        };
        let login = |user: &Option<String>, password: &Option<String>| {
            let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
            if let Some(user) = user {
                login = login.set_username(user);
            }
            if let Some(password) = password {
                login = login.set_password(password);
            }
            login
        };
        Ok(Connector {
            endpoint,
            tls: load_certificates(config)?,
            login: login(&config.user, &config.password).set_db(i64::from(config.database)),
            sentinel_login: login(&config.sentinel_user, &config.sentinel_password),
            timeout: config.connect_timeout,
            is_cluster: matches!(config.topology, Topology::Cluster(_)),
        })
    }

    /// The same settings for another server.
    pub(crate) fn for_address(&self, host: &str, port: u16) -> Connector {
        self.for_endpoint(Endpoint::Address(host.to_owned(), port))
    }

    /// The same settings for another endpoint.
    pub(crate) fn for_endpoint(&self, endpoint: Endpoint) -> Connector {
        Connector { endpoint, ..self.clone() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Time limit for connecting.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// True if the servers are nodes of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Connects, and returns the endpoint that was reached: with sentinels the address of the
    /// master. The connect time-out covers all servers that are asked on the way.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or invalid configuration.
    pub(crate) async fn connect(&self, subscriptions: Arc<Subscriptions>) -> Result<(MultiplexedConnection, Endpoint)> {
        let connecting = async {
            let address = match &self.endpoint {
                Endpoint::Address(host, port) => self.address(host, *port),
                Endpoint::Socket(path) => ConnectionAddr::Unix(path.clone()),
                Endpoint::Master { sentinels, service } => {
                    return self.connect_to_master(sentinels, service, subscriptions).await;
                }
            };
            Ok((self.open(address, &self.login, subscriptions).await?, self.endpoint.clone()))
        };
        let answer = tokio::time::timeout(self.timeout, connecting).await;
        answer.unwrap_or_else(|_| {
            Err(Error::no_answer(format_args!("{}: connecting", self.endpoint), self.timeout, Effect::None))
        })
    }

    fn address(&self, host: &str, port: u16) -> ConnectionAddr {
        match self.tls {
            None => ConnectionAddr::Tcp(host.to_owned(), port),
            Some(_) => ConnectionAddr::TcpTls { host: host.to_owned(), port, insecure: false, tls_params: None },
        }
    }

    async fn open(
        &self,
        address: ConnectionAddr,
        login: &RedisConnectionInfo,
        subscriptions: Arc<Subscriptions>,
    ) -> Result<MultiplexedConnection> {
        let failed = |error: redis::RedisError| error::classify_connect(&self.endpoint.to_string(), &error);
        // No Nagle delay for small messages; keepalive notices a host that vanished.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let is_tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let info = address.into_connection_info().map_err(failed)?;
        let info = info.set_redis_settings(login.clone()).set_tcp_settings(tcp);
        let client = match &self.tls {
            Some(certificates) if is_tls => Client::build_with_tls(info, certificates.clone()),
            _ => Client::open(info),
        };
        // Each call sets its own deadline.
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push| {
                subscriptions.on_push(&push);
                Ok::<(), ()>(())
            });
        client.map_err(failed)?.get_multiplexed_async_connection_with_config(&settings).await.map_err(failed)
    }

    /// Asks all sentinels at once for the master, and connects to the one that most of them name
    /// and that reports the role of a master itself. A sentinel can be behind, and a former
    /// master that comes back still takes itself for one.
    async fn connect_to_master(
        &self,
        sentinels: &[(String, u16)],
        service: &str,
        subscriptions: Arc<Subscriptions>,
    ) -> Result<(MultiplexedConnection, Endpoint)> {
        let text = format!("{}: no sentinel knows it", self.endpoint);
        let mut last = Error::refused(ErrorKind::Unavailable, text);
        for master in self.nominated_masters(sentinels, service, &mut last).await {
            let Endpoint::Address(host, port) = &master.endpoint else { continue };
            let opened = self.open(master.address(host, *port), &self.login, subscriptions.clone()).await;
            match opened {
                Ok(mut connection) => match query_role(&mut connection).await {
                    Some(role) if role != "master" => {
                        let text = format!("{}: {} says that it is no master now", self.endpoint, master.endpoint);
                        last = Error::refused(ErrorKind::Unavailable, text);
                    }
                    _ => return Ok((connection, master.endpoint)),
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The masters that the sentinels name, by votes, most first. Polling stops when more than half
    /// of the sentinels agree, or after half of the connect time-out, since one may be gone.
    async fn nominated_masters(&self, sentinels: &[(String, u16)], service: &str, last: &mut Error) -> Vec<Connector> {
        let mut queries = tokio::task::JoinSet::new();
        for (host, port) in sentinels {
            let (sentinel, service) = (self.for_address(host, *port), service.to_owned());
            queries.spawn(async move { sentinel.query_sentinel(&service).await });
        }
        let mut votes: Vec<((String, u16), usize)> = Vec::new();
        let polling = async {
            while let Some(answer) = queries.join_next().await {
                match answer {
                    Ok(Ok(Some(master))) => match votes.iter_mut().find(|(other, _)| *other == master) {
                        Some((_, count)) => *count += 1,
                        None => votes.push((master, 1)),
                    },
                    Ok(Err(error)) => *last = error,
                    Ok(Ok(None)) | Err(_) => {}
                }
                if votes.iter().any(|(_, count)| *count > sentinels.len() / 2) {
                    break;
                }
            }
        };
        // On a time-out the votes that have arrived count.
        let _ = tokio::time::timeout(self.timeout / 2, polling).await;
        votes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        votes.into_iter().map(|((host, port), _)| self.for_address(&host, port)).collect()
    }

    async fn query_sentinel(&self, service: &str) -> Result<Option<(String, u16)>> {
        let Endpoint::Address(host, port) = &self.endpoint else { return Ok(None) };
        let mut sentinel = self.open(self.address(host, *port), &self.sentinel_login, Arc::default()).await?;
        let mut query = redis::cmd("SENTINEL");
        let query = query.arg("get-master-addr-by-name").arg(service);
        let answer: Option<(String, u16)> = query
            .query_async(&mut sentinel)
            .await
            .map_err(|error| error::classify_connect(&self.endpoint.to_string(), &error))?;
        Ok(answer)
    }
}

/// The role that a server reports; `None` if this user may not ask. The first write then fails on
/// a replica.
pub(crate) async fn query_role(connection: &mut MultiplexedConnection) -> Option<String> {
    let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await.ok()?;
    redis::from_redis_value(role.into_iter().next()?).ok()
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
