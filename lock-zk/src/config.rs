//! [`ZkConfig`]: the settings of a store in ZooKeeper.

use std::fmt;
use std::time::Duration;

use lock_core::kit::{TIMEOUT_RANGE, host_and_port};
use lock_core::{Error, PemFile, Result, StoreUrl, Tls};
use zookeeper_client::{Connector, Error as ZkError, SaslOptions, TlsOptions};

use crate::layout::Layout;

/// The settings of a store in ZooKeeper.
///
/// `Debug` shows no password.
#[derive(Clone)]
#[non_exhaustive]
pub struct ZkConfig {
    /// The servers' client addresses, as `host:port`.
    pub servers: Vec<String>,
    /// The prefix of every node's path, which is a path itself: `/app`, or `/`.
    pub prefix: String,
    /// The credentials of this client.
    pub login: Option<Login>,
    /// TLS, if the servers use it. The file of authorities is needed.
    pub tls: Option<Tls>,
    /// The time that a server may be silent before the client goes to another: at most two fifths
    /// of the session's TTL. The default is that, but at most three seconds.
    pub response_timeout: Option<Duration>,
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

const URL_KEYS: [&str; 4] = ["auth", "connect_timeout", "response_timeout", "tick"];
const DEFAULT_PORT: u16 = 2181;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

impl ZkConfig {
    /// The default settings for these servers, as `host:port`, and this prefix.
    pub fn new(servers: impl IntoIterator<Item = impl Into<String>>, prefix: impl Into<String>) -> ZkConfig {
        ZkConfig {
            servers: servers.into_iter().map(Into::into).collect(),
            prefix: prefix.into(),
            login: None,
            tls: None,
            response_timeout: None,
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            tick: None,
        }
    }

    /// The settings in a URL: `zk://[user:password@]host[:port],host/prefix`, or `zks://` for TLS,
    /// with the keys `auth` (`digest` or `sasl`), `connect_timeout`, `response_timeout` and `tick`,
    /// and for TLS the files `ca`, `certificate` and `key`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig), with the form that would be
    /// accepted.
    pub fn from_url(url: &StoreUrl) -> Result<ZkConfig> {
        let is_tls = url.scheme() == "zks";
        let mut keys = URL_KEYS.to_vec();
        if is_tls {
            keys.extend(Tls::KEYS);
        }
        url.only_keys(&keys)?;
        if url.hosts().is_empty() {
            return Err(Error::invalid_config(format!(
                "{url} is not accepted: it names no host; ZooKeeper is zk://host,host/prefix"
            )));
        }
        let servers = url.endpoints(DEFAULT_PORT).into_iter().map(|(host, port)| host_and_port(&host, port));
        let mut config = ZkConfig::new(servers, Layout::new(url.path())?.base());
        config.login = Login::from_url(url)?;
        config.tls = is_tls.then(|| Tls::from_url(url)).transpose()?;
        if config.tls.as_ref().is_some_and(|tls| tls.ca.is_none()) {
            return Err(missing_ca());
        }
        config.response_timeout = url.duration_in("response_timeout", &TIMEOUT_RANGE)?;
        let connect_timeout = url.duration_in("connect_timeout", &TIMEOUT_RANGE)?;
        config.connect_timeout = connect_timeout.unwrap_or(DEFAULT_CONNECT_TIMEOUT);
        config.tick = url.duration_in("tick", &TIMEOUT_RANGE)?;
        Ok(config)
    }

    /// The time that a server may be silent in a session of this TTL.
    pub(crate) fn response_timeout_of(&self, session: Duration) -> Duration {
        self.response_timeout.unwrap_or(MAX_DEFAULT_RESPONSE_TIMEOUT).min(session * 2 / 5)
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
            Some(tls) => Ok(connector.with_tls(load_tls(tls)?)),
        }
    }
}

impl Login {
    fn from_url(url: &StoreUrl) -> Result<Option<Login>> {
        let scheme = url.value("auth");
        let Some((user, password)) = url.login()? else {
            return match scheme {
                None => Ok(None),
                Some(_) => {
                    Err(Error::invalid_config(format!("{url} is not accepted: auth needs a user and a password")))
                }
            };
        };
        if user.contains(':') {
            return Err(Error::invalid_config(format!("{url} is not accepted: a user has no colon in its name")));
        }
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

/// Reads the files, for the client.
fn load_tls(tls: &Tls) -> Result<TlsOptions> {
    // The client takes the provider that the program installed; if it installed none, this one.
    drop(rustls::crypto::ring::default_provider().install_default());
    let files = tls.read()?;
    let ca = files.ca.as_ref().ok_or_else(missing_ca)?;
    let refuse = |file: &PemFile, error: ZkError| file.refuse("it has no certificate or key in PEM").with_source(error);
    let options = TlsOptions::new().with_pem_ca(ca.text()?).map_err(|error| refuse(ca, error))?;
    match &files.identity {
        None => Ok(options),
        Some((certificate, key)) => {
            options.with_pem_identity(certificate.text()?, key.text()?).map_err(|error| refuse(certificate, error))
        }
    }
}

fn missing_ca() -> Error {
    Error::invalid_config("zks: needs ca, the file with the authorities to trust")
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
            .field("prefix", &self.prefix)
            .field("login", &self.login)
            .field("tls", &self.tls)
            .field("response_timeout", &self.response_timeout)
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
    fn a_url_says_servers_prefix_login_and_times() {
        let config = config("zk://app:s3cret@10.0.0.1,[::1]:77/a/b/?response_timeout=200ms&tick=1s").unwrap();
        assert_eq!(config.connect_string().unwrap(), "10.0.0.1:2181,[::1]:77");
        assert_eq!(config.prefix, "/a/b");
        assert!(matches!(&config.login, Some(Login::Digest(_, password)) if password == "s3cret"));
        assert_eq!(config.response_timeout_of(Duration::from_secs(30)), Duration::from_millis(200));
        assert_eq!(config.response_timeout_of(Duration::from_millis(400)), Duration::from_millis(160));
        assert_eq!(config.tick, Some(Duration::from_secs(1)));
        assert!(config.tls.is_none());
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn without_a_path_locks_are_below_the_root() {
        assert_eq!(config("zk://h").unwrap().prefix, "/");
        assert_eq!(config("zk://h/").unwrap().prefix, "/");
    }

    #[test]
    fn a_login_is_by_digest_unless_sasl_is_said() {
        assert!(matches!(config("zk://u:p@h?auth=sasl").unwrap().login, Some(Login::Sasl(..))));
        assert!(matches!(config("zk://u:p@h?auth=digest").unwrap().login, Some(Login::Digest(..))));
    }

    #[test]
    fn an_old_spelling_is_refused_with_the_right_one() {
        for (url, says) in
            [("zks://h?ca=a.pem&cert=c.pem", "write certificate"), ("zk://h?timeout=1s", "write response_timeout")]
        {
            let error = config(url).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn what_is_incomplete_or_odd_is_refused() {
        for url in [
            "zk:",
            "zk://app@h",
            "zk://h?auth=sasl",
            "zk://u:p@h?auth=kerberos",
            "zks://h",
            "zks://h?ca=ca.pem&certificate=c.pem",
            "zk://h?response_timeout=0s",
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
