//! [`EtcdConfig`]: the settings of the store.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lock_core::{Error, Result, StoreUrl};

use crate::key_layout::KeyLayout;

/// The settings of the store in etcd.
///
/// `Debug` shows no password.
#[derive(Clone)]
#[non_exhaustive]
pub struct EtcdConfig {
    /// The members' client addresses, as `host:port`.
    pub endpoints: Vec<String>,
    /// Prefix of every key; empty to share locks with other programs that use none.
    pub prefix: String,
    /// User and password, if the cluster requires a login.
    pub login: Option<(String, String)>,
    /// TLS, if the cluster uses it.
    pub tls: Option<Tls>,
    /// Time-out of a member's reply, after which the call goes to another one; by default one
    /// second.
    pub timeout: Duration,
    /// Time-out of connecting to one member; by default one second.
    pub connect_timeout: Duration,
}

/// TLS towards etcd.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Tls {
    /// The file with the certificates of the authorities that sign the members' certificates.
    pub ca: Option<PathBuf>,
    /// The files with this client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

const URL_KEYS: [&str; 2] = ["timeout", "connect_timeout"];
const TLS_URL_KEYS: [&str; 5] = ["timeout", "connect_timeout", "ca", "cert", "key"];
const DEFAULT_PORT: u16 = 2379;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

impl EtcdConfig {
    /// Settings for these members, as `host:port`, with the defaults for everything else.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> EtcdConfig {
        EtcdConfig {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: String::new(),
            login: None,
            tls: None,
            timeout: DEFAULT_TIMEOUT,
            connect_timeout: DEFAULT_TIMEOUT,
        }
    }

    /// Sets the prefix of every key.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> EtcdConfig {
        self.prefix = prefix.into();
        self
    }

    /// Parses a URL: `etcd://[user:password@]host[:port],host/prefix`, or `etcds://` for TLS, with
    /// the keys `timeout` and `connect_timeout`, and for TLS the files `ca`, `cert` and `key`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig), with a text that shows what is
    /// accepted.
    pub fn from_url(url: &StoreUrl) -> Result<EtcdConfig> {
        let secure = url.scheme() == "etcds";
        url.only_keys(if secure { &TLS_URL_KEYS } else { &URL_KEYS })?;
        if url.hosts().is_empty() {
            return Err(Error::invalid_config(format!(
                "{url} is not accepted: it names no host; etcd is etcd://host,host/prefix"
            )));
        }
        let endpoint = |(host, port): &(String, Option<u16>)| {
            let port = port.unwrap_or(DEFAULT_PORT);
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let path = url.path().strip_prefix('/').unwrap_or(url.path());
        let mut config = EtcdConfig::new(url.hosts().iter().map(endpoint)).prefix(KeyLayout::prefix_of_path(path));
        config.login = match (url.user(), url.password()) {
            (None, _) => None,
            (Some(user), Some(password)) => Some((user.to_owned(), password.to_owned())),
            (Some(_), None) => {
                return Err(Error::invalid_config(format!("{url} is not accepted: the user has no password")));
            }
        };
        config.tls = secure.then(|| Tls::from_url(url)).transpose()?;
        config.timeout = parse_timeout(url, "timeout")?;
        config.connect_timeout = parse_timeout(url, "connect_timeout")?;
        Ok(config)
    }
}

fn parse_timeout(url: &StoreUrl, key: &str) -> Result<Duration> {
    match url.duration(key)? {
        Some(Duration::ZERO) => {
            Err(Error::invalid_config(format!("{key}=0 is not accepted: nothing answers within no time")))
        }
        given => Ok(given.unwrap_or(DEFAULT_TIMEOUT)),
    }
}

impl Tls {
    /// TLS with the authorities in this file.
    pub fn with_ca(ca: impl Into<PathBuf>) -> Tls {
        Tls { ca: Some(ca.into()), identity: None }
    }

    /// Sets this client's certificate and key.
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
        Ok(Tls { ca: file("ca"), identity })
    }

    /// Reads the files.
    pub(crate) fn load(&self) -> Result<etcd_client::TlsOptions> {
        let mut tls = etcd_client::TlsOptions::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(etcd_client::Certificate::from_pem(read_file(ca)?));
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(etcd_client::Identity::from_pem(read_file(certificate)?, read_file(key)?));
        }
        Ok(tls)
    }
}

fn read_file(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path)
        .map_err(|error| Error::invalid_config(format!("{} cannot be read", path.display())).with_source(error))
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("timeout", &self.timeout)
            .field("connect_timeout", &self.connect_timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn config(url: &str) -> Result<EtcdConfig> {
        EtcdConfig::from_url(&url.parse().expect("a URL"))
    }

    #[test]
    fn a_url_says_members_prefix_login_and_times() {
        let config = config("etcd://app:s3cret@10.0.0.1,[::1]:77/locks?timeout=200ms").unwrap();
        assert_eq!(config.endpoints, ["10.0.0.1:2379", "[::1]:77"]);
        assert_eq!(config.prefix, "locks/");
        assert_eq!(config.login.as_ref().unwrap().1, "s3cret");
        assert_eq!(config.timeout, Duration::from_millis(200));
        assert!(config.tls.is_none());
        assert!(!format!("{config:?}").contains("s3cret"));
    }

    #[test]
    fn without_a_path_locks_are_shared_with_programs_that_have_no_prefix() {
        assert_eq!(config("etcd://h").unwrap().prefix, "");
        assert_eq!(config("etcd://h/").unwrap().prefix, "");
    }

    #[test]
    fn half_a_login_or_half_an_identity_is_refused() {
        for url in ["etcd://app@h", "etcds://h?cert=c.pem", "etcds://h?key=k.pem", "etcd:", "etcd://h?timeout=0s"] {
            assert_eq!(config(url).unwrap_err().kind(), ErrorKind::InvalidConfig, "{url}");
        }
    }

    #[test]
    fn files_for_tls_are_refused_where_there_is_no_tls() {
        let error = config("etcd://h?ca=ca.pem").unwrap_err();
        assert!(error.to_string().contains("\"ca\""), "{error}");
    }
}
