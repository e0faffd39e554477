//! [`Connector`]: how a connection is made.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Effect, Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion,
    RedisConnectionInfo, TlsCertificates,
};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::{RedisConfig, Topology};
use crate::error;
use crate::subscriptions::Subscriptions;

/// How a connection is made: to whom, as whom, and how long it may take.
#[derive(Clone)]
pub(crate) struct Connector {
    endpoint: Endpoint,
    tls: Option<TlsCertificates>,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    timeout: Duration,
    is_cluster: bool,
}

/// To whom.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    Address(String, u16),
    Socket(std::path::PathBuf),
    /// Whom the sentinels call the master.
    Master {
        sentinels: Vec<(String, u16)>,
        service: String,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(host, port) if host.contains(':') => write!(f, "redis at [{host}]:{port}"),
            Endpoint::Address(host, port) => write!(f, "redis at {host}:{port}"),
            Endpoint::Socket(path) => write!(f, "redis at {}", path.display()),
            Endpoint::Master { service, .. } => write!(f, "the redis master of {service}"),
        }
    }
}

impl Connector {
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
                    return Err(Error::refused(ErrorKind::InvalidConfig, "a cluster needs one host at least"));
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

    /// The same for another server.
    pub(crate) fn for_address(&self, host: &str, port: u16) -> Connector {
        self.for_endpoint(Endpoint::Address(host.to_owned(), port))
    }

    /// The same for whom this connection leads to.
    pub(crate) fn for_endpoint(&self, endpoint: Endpoint) -> Connector {
        Connector { endpoint, ..self.clone() }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// How long connecting may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Whether it leads to the members of a cluster.
    pub(crate) fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Connects, and says to whom, within the connect time-out however many servers are asked on the way.
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
            Err(error::timed_out(&self.endpoint.to_string(), "connecting", self.timeout, Effect::None))
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
        // Small messages must not wait for each other, and a host that vanished must be noticed.
        let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(5)).with_interval(Duration::from_secs(2));
        let tcp = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
        let is_tls = matches!(address, ConnectionAddr::TcpTls { .. });
        let info = address.into_connection_info().map_err(failed)?;
        let info = info.set_redis_settings(login.clone()).set_tcp_settings(tcp);
        let client = match &self.tls {
            Some(certificates) if is_tls => Client::build_with_tls(info, certificates.clone()),
            _ => Client::open(info),
        };
        // Every call has a deadline of ours.
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push| {
                subscriptions.on_push(&push);
                Ok::<(), ()>(())
            });
        client.map_err(failed)?.get_multiplexed_async_connection_with_config(&settings).await.map_err(failed)
    }

    /// Asks all sentinels at once who is the master, and takes whom most of them name, if it thinks so itself. A
    /// sentinel can be behind, and a master of before that has come back does not know yet that it is none.
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

    /// Whom the sentinels name, first whom most name. As soon as more than half of them agree, the others are not
    /// waited for; nor longer than half of the time, as one of them may be gone.
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
        // What was told until then counts.
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

/// What a server thinks that it is; `None` if this user may not ask, and the first write will tell.
pub(crate) async fn query_role(connection: &mut MultiplexedConnection) -> Option<String> {
    let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await.ok()?;
    redis::from_redis_value(role.into_iter().next()?).ok()
}

/// What the files hold, each of them checked: a file without what it is named for would be believed in silence, and then
/// refuse every server.
fn load_certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    // The client takes the provider that the program chose; if it chose none, this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = tls.ca.as_deref().map(|path| read_pem(path, check_authorities)).transpose()?;
    let certificate = tls.certificate.as_deref().map(|path| read_pem(path, check_chain)).transpose()?;
    let key = tls.key.as_deref().map(|path| read_pem(path, check_key)).transpose()?;
    let client_tls = certificate.zip(key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// A file, if it `holds` what it is for; else that says what it has not.
fn read_pem(path: &Path, check: fn(&[u8]) -> Result<(), &'static str>) -> Result<Vec<u8>> {
    let refused = |why: String| Error::refused(ErrorKind::InvalidConfig, format!("{} {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    match check(&bytes) {
        Ok(()) => Ok(bytes),
        Err(what) => Err(refused(format!("is not accepted: it holds no {what}"))),
    }
}

fn check_authorities(bytes: &[u8]) -> Result<(), &'static str> {
    const WHAT: &str = "certificates of authorities in PEM";
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        authorities.add(certificate.map_err(|_| WHAT)?).map_err(|_| WHAT)?;
    }
    if authorities.is_empty() { Err(WHAT) } else { Ok(()) }
}

fn check_chain(bytes: &[u8]) -> Result<(), &'static str> {
    const WHAT: &str = "certificate in PEM";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    chain.ok().filter(|chain| !chain.is_empty()).map(drop).ok_or(WHAT)
}

fn check_key(bytes: &[u8]) -> Result<(), &'static str> {
    PrivateKeyDer::from_pem_slice(bytes).map(drop).map_err(|_| "private key in PEM")
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
