//! [`Dial`]: how a connection is made.

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

use crate::config::{Place, RedisConfig};
use crate::error;
use crate::wakeups::Wakeups;

/// How a connection is made: to whom, as whom, and how long it may take.
#[derive(Clone)]
pub(crate) struct Dial {
    to: To,
    tls: Option<TlsCertificates>,
    login: RedisConnectionInfo,
    sentinel_login: RedisConnectionInfo,
    limit: Duration,
    is_to_cluster: bool,
}

/// To whom.
#[derive(Clone, Debug)]
pub(crate) enum To {
    Address(String, u16),
    Socket(std::path::PathBuf),
    /// Whom the sentinels call the master.
    Master {
        sentinels: Vec<(String, u16)>,
        service: String,
    },
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            To::Address(host, port) if host.contains(':') => write!(f, "redis at [{host}]:{port}"),
            To::Address(host, port) => write!(f, "redis at {host}:{port}"),
            To::Socket(path) => write!(f, "redis at {}", path.display()),
            To::Master { service, .. } => write!(f, "the redis master of {service}"),
        }
    }
}

impl Dial {
    /// # Errors
    ///
    /// Invalid configuration if the certificates cannot be read.
    pub(crate) fn new(config: &RedisConfig) -> Result<Dial> {
        let to = match &config.place {
            Place::Server(host, port) => To::Address(host.clone(), *port),
            Place::Socket(path) => To::Socket(path.clone()),
            Place::Sentinels { hosts, service } => To::Master { sentinels: hosts.clone(), service: service.clone() },
            Place::Cluster(hosts) => {
                let Some((host, port)) = hosts.first() else {
                    return Err(Error::refused(ErrorKind::InvalidConfig, "a cluster needs one host at least"));
                };
                To::Address(host.clone(), *port)
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
        Ok(Dial {
            to,
            tls: certificates(config)?,
            login: login(&config.user, &config.password).set_db(i64::from(config.database)),
            sentinel_login: login(&config.sentinel_user, &config.sentinel_password),
            limit: config.connect_timeout,
            is_to_cluster: matches!(config.place, Place::Cluster(_)),
        })
    }

    /// The same for another server.
    pub(crate) fn at(&self, host: &str, port: u16) -> Dial {
        self.with(To::Address(host.to_owned(), port))
    }

    /// The same for whom this connection leads to.
    pub(crate) fn with(&self, to: To) -> Dial {
        Dial { to, ..self.clone() }
    }

    pub(crate) fn to(&self) -> &To {
        &self.to
    }

    /// How long connecting may take.
    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether it leads to the members of a cluster.
    pub(crate) fn is_to_cluster(&self) -> bool {
        self.is_to_cluster
    }

    /// Connects, and says to whom, within the connect time-out however many servers are asked on the way.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or invalid configuration.
    pub(crate) async fn connect(&self, wakeups: Arc<Wakeups>) -> Result<(MultiplexedConnection, To)> {
        let connecting = async {
            let address = match &self.to {
                To::Address(host, port) => self.address(host, *port),
                To::Socket(path) => ConnectionAddr::Unix(path.clone()),
                To::Master { sentinels, service } => return self.master(sentinels, service, wakeups).await,
            };
            Ok((self.open(address, &self.login, wakeups).await?, self.to.clone()))
        };
        let answer = tokio::time::timeout(self.limit, connecting).await;
        answer.unwrap_or_else(|_| Err(error::timed_out(&self.to.to_string(), "connecting", self.limit, Effect::None)))
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
        wakeups: Arc<Wakeups>,
    ) -> Result<MultiplexedConnection> {
        let failed = |error: redis::RedisError| error::of_connecting(&self.to.to_string(), &error);
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
                wakeups.hear(&push);
                Ok::<(), ()>(())
            });
        client.map_err(failed)?.get_multiplexed_async_connection_with_config(&settings).await.map_err(failed)
    }

    /// Asks all sentinels at once who is the master, and takes whom most of them name, if it thinks so itself. A
    /// sentinel can be behind, and a master of before that has come back does not know yet that it is none.
    async fn master(
        &self,
        sentinels: &[(String, u16)],
        service: &str,
        wakeups: Arc<Wakeups>,
    ) -> Result<(MultiplexedConnection, To)> {
        let text = format!("{}: no sentinel knows it", self.to);
        let mut last = Error::refused(ErrorKind::Unavailable, text);
        for master in self.named(sentinels, service, &mut last).await {
            let To::Address(host, port) = &master.to else { continue };
            let opened = self.open(master.address(host, *port), &self.login, wakeups.clone()).await;
            match opened {
                Ok(mut connection) => match role(&mut connection).await {
                    Some(role) if role != "master" => {
                        let text = format!("{}: {} says that it is no master now", self.to, master.to);
                        last = Error::refused(ErrorKind::Unavailable, text);
                    }
                    _ => return Ok((connection, master.to)),
                },
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whom the sentinels name, first whom most name. As soon as more than half of them agree, the others are not
    /// waited for; nor longer than half of the time, as one of them may be gone.
    async fn named(&self, sentinels: &[(String, u16)], service: &str, last: &mut Error) -> Vec<Dial> {
        let mut asked = tokio::task::JoinSet::new();
        for (host, port) in sentinels {
            let (sentinel, service) = (self.at(host, *port), service.to_owned());
            asked.spawn(async move { sentinel.ask_for_master(&service).await });
        }
        let mut named: Vec<((String, u16), usize)> = Vec::new();
        let gathering = async {
            while let Some(told) = asked.join_next().await {
                match told {
                    Ok(Ok(Some(master))) => match named.iter_mut().find(|(other, _)| *other == master) {
                        Some((_, count)) => *count += 1,
                        None => named.push((master, 1)),
                    },
                    Ok(Err(error)) => *last = error,
                    Ok(Ok(None)) | Err(_) => {}
                }
                if named.iter().any(|(_, count)| *count > sentinels.len() / 2) {
                    break;
                }
            }
        };
        // What was told until then counts.
        let _ = tokio::time::timeout(self.limit / 2, gathering).await;
        named.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        named.into_iter().map(|((host, port), _)| self.at(&host, port)).collect()
    }

    async fn ask_for_master(&self, service: &str) -> Result<Option<(String, u16)>> {
        let To::Address(host, port) = &self.to else { return Ok(None) };
        let mut sentinel = self.open(self.address(host, *port), &self.sentinel_login, Arc::default()).await?;
        let mut ask = redis::cmd("SENTINEL");
        let ask = ask.arg("get-master-addr-by-name").arg(service);
        let told: Option<(String, u16)> =
            ask.query_async(&mut sentinel).await.map_err(|error| error::of_connecting(&self.to.to_string(), &error))?;
        Ok(told)
    }
}

/// What a server thinks that it is; `None` if this user may not ask, and the first write will tell.
pub(crate) async fn role(connection: &mut MultiplexedConnection) -> Option<String> {
    let role: Vec<redis::Value> = redis::cmd("ROLE").query_async(connection).await.ok()?;
    redis::from_redis_value(role.into_iter().next()?).ok()
}

/// What the files hold, each of them checked: a file without what it is named for would be believed in silence, and then
/// refuse every server.
fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>> {
    let Some(tls) = &config.tls else { return Ok(None) };
    // The client takes the provider that the program chose; if it chose none, this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let root_cert = tls.ca.as_deref().map(|path| read(path, authorities)).transpose()?;
    let certificate = tls.certificate.as_deref().map(|path| read(path, chain)).transpose()?;
    let key = tls.key.as_deref().map(|path| read(path, private_key)).transpose()?;
    let client_tls = certificate.zip(key).map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
    Ok(Some(TlsCertificates { client_tls, root_cert }))
}

/// A file, if it `holds` what it is for; else that says what it has not.
fn read(path: &Path, holds: fn(&[u8]) -> Result<(), &'static str>) -> Result<Vec<u8>> {
    let refused = |why: String| Error::refused(ErrorKind::InvalidConfig, format!("{} {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
    match holds(&bytes) {
        Ok(()) => Ok(bytes),
        Err(what) => Err(refused(format!("is not accepted: it holds no {what}"))),
    }
}

fn authorities(bytes: &[u8]) -> Result<(), &'static str> {
    const WHAT: &str = "certificates of authorities in PEM";
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        authorities.add(certificate.map_err(|_| WHAT)?).map_err(|_| WHAT)?;
    }
    if authorities.is_empty() { Err(WHAT) } else { Ok(()) }
}

fn chain(bytes: &[u8]) -> Result<(), &'static str> {
    const WHAT: &str = "certificate in PEM";
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(bytes).collect();
    chain.ok().filter(|chain| !chain.is_empty()).map(drop).ok_or(WHAT)
}

fn private_key(bytes: &[u8]) -> Result<(), &'static str> {
    PrivateKeyDer::from_pem_slice(bytes).map(drop).map_err(|_| "private key in PEM")
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dial").field("to", &self.to).finish_non_exhaustive()
    }
}
