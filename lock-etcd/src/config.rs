//! [`EtcdConfig`]: the settings of the store.

use std::fmt;
use std::time::Duration;

use lock_core::kit::{TIMEOUT_RANGE, host_and_port};
use lock_core::{Error, Result, StoreUrl, Tls};

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
    /// TLS, if the cluster uses it. Without a file of authorities, the system's are trusted.
    pub tls: Option<Tls>,
    /// Time-out of a member's reply, after which the call goes to another one; by default one
    /// second.
    pub response_timeout: Duration,
    /// Time-out of connecting to one member; by default one second.
    pub connect_timeout: Duration,
}

const URL_KEYS: [&str; 2] = ["connect_timeout", "response_timeout"];
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
            response_timeout: DEFAULT_TIMEOUT,
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
    /// the keys `connect_timeout` and `response_timeout`, and for TLS the files `ca`, `certificate`
    /// and `key`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig), with a text that shows what is
    /// accepted.
    pub fn from_url(url: &StoreUrl) -> Result<EtcdConfig> {
        let is_tls = url.scheme() == "etcds";
        let mut keys = URL_KEYS.to_vec();
        if is_tls {
            keys.extend(Tls::KEYS);
        }
        url.only_keys(&keys)?;
        if url.hosts().is_empty() {
            return Err(Error::invalid_config(format!(
                "{url} is not accepted: it names no host; etcd is etcd://host,host/prefix"
            )));
        }
        let path = url.path().strip_prefix('/').unwrap_or(url.path());
        let endpoints = url.endpoints(DEFAULT_PORT).into_iter().map(|(host, port)| host_and_port(&host, port));
        let mut config = EtcdConfig::new(endpoints).prefix(KeyLayout::prefix_of_path(path));
        config.login = url.login()?;
        config.tls = is_tls.then(|| Tls::from_url(url)).transpose()?;
        let timeout = |key: &str| url.duration_in(key, &TIMEOUT_RANGE).map(|given| given.unwrap_or(DEFAULT_TIMEOUT));
        config.response_timeout = timeout("response_timeout")?;
        config.connect_timeout = timeout("connect_timeout")?;
        Ok(config)
    }
}

/// Reads the files, for the client.
pub(crate) fn load_tls(tls: &Tls) -> Result<etcd_client::TlsOptions> {
    let files = tls.read()?;
    let mut options = etcd_client::TlsOptions::new();
    if let Some(ca) = &files.ca {
        options = options.ca_certificate(etcd_client::Certificate::from_pem(ca.bytes()));
    }
    if let Some((certificate, key)) = &files.identity {
        options = options.identity(etcd_client::Identity::from_pem(certificate.bytes(), key.bytes()));
    }
    Ok(options)
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("user", &self.login.as_ref().map(|(user, _)| user))
            .field("tls", &self.tls)
            .field("response_timeout", &self.response_timeout)
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
        let config = config("etcd://app:s3cret@10.0.0.1,[::1]:77/locks?response_timeout=200ms").unwrap();
        assert_eq!(config.endpoints, ["10.0.0.1:2379", "[::1]:77"]);
        assert_eq!(config.prefix, "locks/");
        assert_eq!(config.login.as_ref().unwrap().1, "s3cret");
        assert_eq!(config.response_timeout, Duration::from_millis(200));
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
        for url in [
            "etcd://app@h",
            "etcds://h?certificate=c.pem",
            "etcds://h?key=k.pem",
            "etcd:",
            "etcd://h?response_timeout=0s",
        ] {
            assert_eq!(config(url).unwrap_err().kind(), ErrorKind::InvalidConfig, "{url}");
        }
    }

    #[test]
    fn an_old_spelling_is_refused_with_the_right_one() {
        for (url, says) in
            [("etcds://h?cert=c.pem", "write certificate"), ("etcd://h?timeout=1s", "write response_timeout")]
        {
            let error = config(url).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn files_for_tls_are_refused_where_there_is_no_tls() {
        let error = config("etcd://h?ca=ca.pem").unwrap_err();
        assert!(error.to_string().contains("\"ca\""), "{error}");
    }
}
