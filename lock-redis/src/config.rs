//! [`RedisConfig`]: the settings of the store.

use std::fmt;
use std::time::Duration;

use lock_core::kit::{TIMEOUT_RANGE, check_duration};
use lock_core::{Error, Result, StoreUrl, Tls};

use crate::topology::Topology;

/// The servers and the settings for them: the same as a URL such as
/// `redis://app:secret@10.0.0.1/0?prefix=lock:`.
///
/// `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisConfig {
    /// The servers.
    pub topology: Topology,
    /// The user; `None` for the default user.
    pub user: Option<String>,
    /// The password, if the user has one.
    pub password: Option<String>,
    /// The user at the sentinels, if they ask for one.
    pub sentinel_user: Option<String>,
    /// The password at the sentinels, if they ask for one.
    pub sentinel_password: Option<String>,
    /// The number of the database; a cluster has only 0.
    pub database: u32,
    /// TLS and its certificates; without a file of authorities, the system's are trusted. In a URL:
    /// the scheme `rediss`, or `tls=true` with sentinels or a cluster; then `ca`, `certificate` and
    /// `key` name files.
    pub tls: Option<Tls>,
    /// The prefix of every key, before the lock's name; by default
    /// [`DEFAULT_PREFIX`](RedisConfig::DEFAULT_PREFIX).
    pub prefix: String,
    /// Time limit for connecting, by default
    /// [`DEFAULT_CONNECT_TIMEOUT`](RedisConfig::DEFAULT_CONNECT_TIMEOUT).
    pub connect_timeout: Duration,
    /// Time limit for one call to a server, by default
    /// [`DEFAULT_RESPONSE_TIMEOUT`](RedisConfig::DEFAULT_RESPONSE_TIMEOUT).
    pub response_timeout: Duration,
    /// Number of replicas that must acknowledge a grant or a renewal; by default 0.
    pub wait: u32,
    /// Time limit for their acknowledgement, by default
    /// [`DEFAULT_WAIT_TIMEOUT`](RedisConfig::DEFAULT_WAIT_TIMEOUT).
    pub wait_timeout: Duration,
}

impl RedisConfig {
    /// `lock:`.
    pub const DEFAULT_PREFIX: &str = "lock:";
    /// 1 second.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// 2 seconds.
    pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
    /// 500 milliseconds.
    pub const DEFAULT_WAIT_TIMEOUT: Duration = Duration::from_millis(500);

    /// The URL keys of every scheme.
    const KEYS: [&str; 5] = ["prefix", "connect_timeout", "response_timeout", "wait", "wait_timeout"];

    /// These servers, with default settings.
    pub fn new(topology: Topology) -> RedisConfig {
        RedisConfig {
            topology,
            user: None,
            password: None,
            sentinel_user: None,
            sentinel_password: None,
            database: 0,
            tls: None,
            prefix: Self::DEFAULT_PREFIX.to_owned(),
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
            wait: 0,
            wait_timeout: Self::DEFAULT_WAIT_TIMEOUT,
        }
    }

    /// The settings of a URL.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a part that this scheme does not
    /// have, an unknown key or a value out of range.
    pub fn from_url(url: &StoreUrl) -> Result<RedisConfig> {
        let is_tls = Self::check_keys(url)?;
        let (topology, database) = Topology::from_url(url)?;
        let mut config = RedisConfig::new(topology);
        config.database = database;
        config.set_logins(url)?;
        config.tls = is_tls.then(|| Tls::from_url(url)).transpose()?;
        if let Some(prefix) = url.value("prefix") {
            config.prefix = prefix.to_owned();
        }
        for (key, time) in [
            ("connect_timeout", &mut config.connect_timeout),
            ("response_timeout", &mut config.response_timeout),
            ("wait_timeout", &mut config.wait_timeout),
        ] {
            *time = url.duration_in(key, &TIMEOUT_RANGE)?.unwrap_or(*time);
        }
        if let Some(wait) = url.number("wait")? {
            config.wait = u32::try_from(wait)
                .map_err(|_| Error::invalid_config(format!("wait={wait} is not accepted: it is too many")))?;
        }
        config.check()?;
        Ok(config)
    }

    /// Checks that the scheme is one of Redis and has all keys of the URL; true if it uses TLS.
    fn check_keys(url: &StoreUrl) -> Result<bool> {
        let mut keys = Self::KEYS.to_vec();
        let is_tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            "redis+unix" => {
                keys.push("database");
                false
            }
            "redis-sentinel" => {
                keys.extend(["tls", "database", "sentinel_user", "sentinel_password"]);
                url.flag("tls")?.unwrap_or(false)
            }
            "redis-cluster" => {
                keys.push("tls");
                url.flag("tls")?.unwrap_or(false)
            }
            other => return Err(Error::invalid_config(format!("the scheme {other}: is not one of Redis"))),
        };
        if is_tls {
            keys.extend(Tls::KEYS);
        }
        url.only_keys(&keys)?;
        Ok(is_tls)
    }

    fn set_logins(&mut self, url: &StoreUrl) -> Result<()> {
        if let Some((user, password)) = url.login()? {
            (self.user, self.password) = (Some(user).filter(|user| !user.is_empty()), Some(password));
        }
        self.sentinel_user = url.value("sentinel_user").map(str::to_owned);
        self.sentinel_password = url.value("sentinel_password").map(str::to_owned);
        Ok(())
    }

    /// Checks all that needs no server.
    ///
    /// # Errors
    ///
    /// Invalid configuration.
    pub(crate) fn check(&self) -> Result<()> {
        for (key, time) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("wait_timeout", self.wait_timeout),
        ] {
            check_duration(key, time, &TIMEOUT_RANGE)?;
        }
        if let Topology::Cluster(_) = self.topology
            && self.database != 0
        {
            return Err(Error::invalid_config("a database is not accepted on a cluster, which has only 0"));
        }
        self.tls.as_ref().map_or(Ok(()), Tls::check)
    }
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("RedisConfig")
            .field("topology", &self.topology)
            .field("user", &self.user)
            .field("password", &hidden(&self.password))
            .field("sentinel_password", &hidden(&self.sentinel_password))
            .field("database", &self.database)
            .field("tls", &self.tls)
            .field("prefix", &self.prefix)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<RedisConfig> {
        RedisConfig::from_url(&url.parse().unwrap())
    }

    #[test]
    fn every_form_of_url_is_read() {
        let server = |host: &str, port| Topology::Server(host.to_owned(), port);
        let config = read("redis://me:p%40ss@h:7000/2?prefix=app:&wait=1&wait_timeout=1s&response_timeout=3s").unwrap();
        assert_eq!((config.topology, config.database, config.tls), (server("h", 7000), 2, None));
        assert_eq!((config.user.as_deref(), config.password.as_deref()), (Some("me"), Some("p@ss")));
        assert_eq!((config.prefix.as_str(), config.wait, config.wait_timeout.as_secs()), ("app:", 1, 1));
        let config = read("rediss://:pw@[::1]?ca=/ca.pem").unwrap();
        assert_eq!((config.topology, config.user), (server("::1", 6379), None));
        assert_eq!(config.tls.unwrap().ca, Some("/ca.pem".into()));
        assert_eq!(
            read("redis+unix:///run/r.sock?database=3").unwrap().topology,
            Topology::Socket("/run/r.sock".into())
        );
        let Topology::Sentinels { hosts, service } = read("redis-sentinel://a,b:1/locks").unwrap().topology else {
            panic!("sentinels")
        };
        assert_eq!((hosts, service.as_str()), (vec![("a".to_owned(), 26379), ("b".to_owned(), 1)], "locks"));
        assert_eq!(read("redis-cluster://a").unwrap().topology, Topology::Cluster(vec![("a".to_owned(), 6379)]));
    }

    #[test]
    fn what_is_not_accepted_is_refused_with_what_would_be() {
        for (url, says) in [
            ("redis:", "one host"),
            ("redis://a,b", "one host"),
            ("redis://a/x", "a number"),
            ("redis://me@a", "user:password"),
            ("redis://a?tpyo=1", "prefix, connect_timeout"),
            ("redis://a?ca=x", "its keys are"),
            ("rediss://a?key=x", "both or neither"),
            ("redis+unix://h/x", "redis+unix:///"),
            ("redis-sentinel://a", "service"),
            ("redis-cluster://a/1", "no path"),
            ("redis://a?connect_timeout=0s", "1ms to 60s"),
            ("redis://a?wait=many", "whole number"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn no_debug_shows_a_password() {
        let config = read("redis-sentinel://me:hunter2@a/s?sentinel_password=hunter3").unwrap();
        assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    }
}
