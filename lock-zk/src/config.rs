//! [`ZkConfig`]: the settings of a store in ZooKeeper.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::{Error, Result, StoreUrl};
use zookeeper_client::{Connector, SaslOptions, TlsOptions};

use crate::layout::Layout;

/// The settings of a store in ZooKeeper.
///
/// `Debug` shows no password.
#[derive(Clone)]
#[non_exhaustive]
pub struct ZkConfig {
    /// The servers' client addresses, as `host:port`.
    pub servers: Vec<String>,
    /// The path of the node below which the locks are: `/app`, or `/`.
    pub path: String,
    /// The credentials of this client.
    pub login: Option<Login>,
    /// TLS, if the servers use it.
    pub tls: Option<Tls>,
    /// The time that a server may be silent before the client goes to another: at most two fifths
    /// of the session's TTL. The default is that, but at most three seconds.
    pub timeout: Option<Duration>,
    /// The time limit for opening a session; by default five seconds.
    pub connect_timeout: Duration,
    /// The servers' `tickTime`. The default is half of the shortest session that they grant, which
    /// is right unless `minSessionTimeout` is set.
    pub tick: Option<Duration>,
}

/// The credentials of a client.
#[derive(Clone)]
#[non_exhaustive]
pub enum Login {
    /// The scheme `digest`: a user and a password, which the servers need not know.
    Digest(String, String),
    /// SASL with DIGEST-MD5: a user and a password that the servers know.
    Sasl(String, String),
}

/// TLS towards ZooKeeper.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tls {
    /// The file with the certificates of the authorities that may have signed the servers'.
    pub ca: PathBuf,
    /// The files with this client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

const URL_KEYS: [&str; 4] = ["auth", "timeout", "connect_timeout", "tick"];
const TLS_URL_KEYS: [&str; 7] = ["auth", "timeout", "connect_timeout", "tick", "ca", "cert", "key"];
const DEFAULT_PORT: u16 = 2181;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

impl ZkConfig {
    /// The default settings for these servers, as `host:port`, and this path.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>, path: impl Into<String>) -> ZkConfig {
        ZkConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            path: path.into(),
            login: None,
            tls: None,
            timeout: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            tick: None,
        }
    }

    /// The settings in a URL: `zk://[user:password@]host[:port],host/path`, or `zks://` for TLS,
    /// with the keys `auth` (`digest` or `sasl`), `timeout`, `connect_timeout` and `tick`, and for
    /// TLS the files `ca`, `cert` and `key`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig), with the form that would be
    /// accepted.
    pub fn from_url(url: &StoreUrl) -> Result<ZkConfig> {
        let is_tls = url.scheme() == "zks";
        url.only_keys(if is_tls { &TLS_URL_KEYS } else { &URL_KEYS })?;
        if url.hosts().is_empty() {
            return Err(Error::invalid_config(format!(
                "{url} is not accepted: it names no host; ZooKeeper is zk://host,host/path"
            )));
        }
        let server = |(host, port): &(String, Option<u16>)| {
            let port = port.unwrap_or(DEFAULT_PORT);
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let mut config = ZkConfig::new(url.hosts().iter().map(server), Layout::new(url.path())?.base());
        config.login = Login::from_url(url)?;
        config.tls = is_tls.then(|| Tls::from_url(url)).transpose()?;
        config.timeout = positive_duration(url, "timeout")?;
        config.connect_timeout = positive_duration(url, "connect_timeout")?.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        config.tick = positive_duration(url, "tick")?;
        Ok(config)
    }

    /// The time that a server may be silent in a session of this TTL.
    pub(crate) fn response_timeout(&self, session: Duration) -> Duration {
        self.timeout.unwrap_or(MAX_DEFAULT_TIMEOUT).min(session * 2 / 5)
    }

    /// The servers in one text, as the client takes them.
    pub(crate) fn connect_string(&self) -> Result<String> {
        if self.servers.is_empty() {
            return Err(Error::invalid_config("ZooKeeper needs at least one server"));
        }
        // The client would take a comma or a slash for the end of an address, and panics at an
        // invalid host.
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:[]%".contains(c);
        match self.servers.iter().find(|server| !server.chars().all(is_host)) {
            Some(server) => Err(Error::invalid_config(format!("{server:?} is not accepted: a server is host:port"))),
            None => Ok(self.servers.join(",")),
        }
    }

    /// The options of the client, with the files read.
    pub(crate) fn connector(&self) -> Result<Connector> {
        let mut connector = zookeeper_client::Client::connector().with_fail_eagerly();
        connector = match &self.login {
            None => connector,
            Some(Login::Digest(user, password)) => {
                connector.with_auth("digest", format!("{user}:{password}").as_bytes())
            }
            Some(Login::Sasl(user, password)) => {
                connector.with_sasl(SaslOptions::digest_md5(user.clone(), password.clone()))
            }
        };
        match &self.tls {
            None => Ok(connector),
            Some(tls) => Ok(connector.with_tls(tls.load()?)),
        }
    }
}

fn positive_duration(url: &StoreUrl, key: &str) -> Result<Option<Duration>> {
    match url.duration(key)? {
        Some(Duration::ZERO) => {
            Err(Error::invalid_config(format!("{key}=0 is not accepted: nothing happens within no time")))
        }
        given => Ok(given),
    }
}

impl Login {
    fn from_url(url: &StoreUrl) -> Result<Option<Login>> {
        let scheme = url.value("auth");
        let (user, password) = match (url.user(), url.password()) {
            (None, _) if scheme.is_some() => {
                return Err(Error::invalid_config(format!("{url} is not accepted: auth needs a user and a password")));
            }
            (None, _) => return Ok(None),
            (Some(user), Some(password)) if !user.contains(':') => (user.to_owned(), password.to_owned()),
            (Some(_), _) => {
                return Err(Error::invalid_config(format!(
                    "{url} is not accepted: a user has a password, and no colon in its name"
                )));
            }
        };
        match scheme {
            None | Some("digest") => Ok(Some(Login::Digest(user, password))),
            Some("sasl") => Ok(Some(Login::Sasl(user, password))),
            Some(other) => Err(Error::invalid_config(format!("auth={other} is not accepted: it is digest or sasl"))),
        }
    }

    fn user(&self) -> &str {
        match self {
            Login::Digest(user, _) | Login::Sasl(user, _) => user,
        }
    }
}

impl Tls {
    /// TLS with the authorities in this file.
    pub fn with_ca(ca: impl Into<PathBuf>) -> Tls {
        Tls { ca: ca.into(), identity: None }
    }

    /// With this client's certificate and key.
    #[must_use]
    pub fn identity(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Tls {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    fn from_url(url: &StoreUrl) -> Result<Tls> {
        let file = |key: &str| url.value(key).map(PathBuf::from);
        let identity = match (file("cert"), file("key")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(Error::invalid_config("cert and key belong together: one of them is missing")),
        };
        let ca =
            file("ca").ok_or_else(|| Error::invalid_config("zks: needs ca, the file with the authorities to trust"))?;
        Ok(Tls { ca, identity })
    }

    fn load(&self) -> Result<TlsOptions> {
        // The client takes the provider that the program installed; if it installed none, this one.
        drop(rustls::crypto::ring::default_provider().install_default());
        let invalid_file = |file: &Path| {
            let text = format!("{} is not accepted: it has no certificate or key in PEM", file.display());
            move |error: zookeeper_client::Error| Error::invalid_config(text).with_source(error)
        };
        let tls = TlsOptions::new().with_pem_ca(&read_file(&self.ca)?).map_err(invalid_file(&self.ca))?;
        match &self.identity {
            None => Ok(tls),
            Some((certificate, key)) => {
                tls.with_pem_identity(&read_file(certificate)?, &read_file(key)?).map_err(invalid_file(certificate))
            }
        }
    }
}

fn read_file(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::invalid_config(format!("{} cannot be read", path.display())).with_source(error))
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self {
            Login::Digest(..) => "Digest",
            Login::Sasl(..) => "Sasl",
        };
        f.debug_tuple(scheme).field(&self.user()).finish_non_exhaustive()
    }
}

impl fmt::Debug for ZkConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkConfig")
            .field("servers", &self.servers)
            .field("path", &self.path)
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("tick", &self.tick)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<ZkConfig> {
        ZkConfig::from_url(&url.parse().expect("a URL"))
    }

    #[test]
    fn a_url_says_servers_path_login_and_times() {
        let config = config("zk://app:s3cret@10.0.0.1,[::1]:77/a/b/?timeout=200ms&tick=1s").unwrap();
        assert_eq!(config.connect_string().unwrap(), "10.0.0.1:2181,[::1]:77");
        assert_eq!(config.path, "/a/b");
        assert!(matches!(&config.login, Some(Login::Digest(_, password)) if password == "s3cret"));
        assert_eq!(config.response_timeout(Duration::from_secs(30)), Duration::from_millis(200));
        assert_eq!(config.response_timeout(Duration::from_millis(400)), Duration::from_millis(160));
        assert_eq!(config.tick, Some(Duration::from_secs(1)));
        assert!(config.tls.is_none());
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn without_a_path_locks_are_below_the_root() {
        assert_eq!(config("zk://h").unwrap().path, "/");
        assert_eq!(config("zk://h/").unwrap().path, "/");
    }

    #[test]
    fn a_login_is_by_digest_unless_sasl_is_said() {
        assert!(matches!(config("zk://u:p@h?auth=sasl").unwrap().login, Some(Login::Sasl(..))));
        assert!(matches!(config("zk://u:p@h?auth=digest").unwrap().login, Some(Login::Digest(..))));
    }

    #[test]
    fn what_is_incomplete_or_odd_is_refused() {
        for url in [
            "zk:",
            "zk://app@h",
            "zk://h?auth=sasl",
            "zk://u:p@h?auth=kerberos",
            "zks://h",
            "zks://h?ca=ca.pem&cert=c.pem",
            "zk://h?timeout=0s",
            "zk://h?ca=ca.pem",
            "zk://h//a",
            "zk://h/a/../b",
            "zk://h/zookeeper",
        ] {
            assert_eq!(config(url).unwrap_err().kind(), ErrorKind::InvalidConfig, "{url}");
        }
        assert!(ZkConfig::new(["a,b/c"], "/").connect_string().is_err());
        assert!(ZkConfig::new(Vec::<String>::new(), "/").connect_string().is_err());
    }
}
