//! [`SqliteConfig`]: the file, and how to use it.

use std::path::PathBuf;
use std::time::Duration;

use lock_core::kit::{TIMEOUT_RANGE, check_duration};
use lock_core::{Error, Result, StoreUrl};

/// The file, and how to use it: the same as the URL
/// `sqlite:PATH?busy_timeout=3s&poll_interval=20ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteConfig {
    /// The file. It is created if it does not exist, for this user only; its folder must exist.
    pub path: PathBuf,
    /// Time limit for the wait for another process's transaction, by default
    /// [`DEFAULT_BUSY_TIMEOUT`](SqliteConfig::DEFAULT_BUSY_TIMEOUT). Keep it below the time for one
    /// call to the store (5 seconds unless set), so that a failure is known to have changed
    /// nothing.
    pub busy_timeout: Duration,
    /// The longest poll interval of a waiter, by default
    /// [`DEFAULT_POLL_INTERVAL`](SqliteConfig::DEFAULT_POLL_INTERVAL). A poll reads shared memory,
    /// not the disk.
    pub poll_interval: Duration,
    /// Adopt a file of another machine: this begins a new realm and ends all its leases. It has no
    /// effect on a file of this machine. In a URL: `machine=adopt`.
    pub adopt: bool,
    /// Open only a file that exists: for commands that only read, since a mistyped path would show
    /// free locks. By default false; in a URL it cannot be set.
    pub existing: bool,
}

impl SqliteConfig {
    /// 3 seconds.
    pub const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(3);
    /// 20 milliseconds.
    pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(20);

    const KEYS: [&str; 3] = ["busy_timeout", "poll_interval", "machine"];

    /// This file, with default settings.
    pub fn new(path: impl Into<PathBuf>) -> SqliteConfig {
        SqliteConfig {
            path: path.into(),
            busy_timeout: Self::DEFAULT_BUSY_TIMEOUT,
            poll_interval: Self::DEFAULT_POLL_INTERVAL,
            adopt: false,
            existing: false,
        }
    }

    /// The configuration that `url` describes.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a host, a user, an unknown key, a
    /// value out of range or no path.
    pub fn from_url(url: &StoreUrl) -> Result<SqliteConfig> {
        url.only_keys(&Self::KEYS)?;
        if !url.hosts().is_empty() || url.user().is_some() {
            return Err(Error::invalid_config(format!(
                "{url} is not accepted: the store is a file, sqlite:PATH, and has no host"
            )));
        }
        let mut config = SqliteConfig::new(url.path());
        config.busy_timeout = url.duration("busy_timeout")?.unwrap_or(config.busy_timeout);
        config.poll_interval = url.duration("poll_interval")?.unwrap_or(config.poll_interval);
        config.adopt = match url.value("machine") {
            None => false,
            Some("adopt") => true,
            Some(other) => {
                return Err(Error::invalid_config(format!("machine={other} is not accepted: it takes adopt")));
            }
        };
        config.check()?;
        Ok(config)
    }

    /// Checks the settings, as far as that is possible without the disk.
    pub(crate) fn check(&self) -> Result<()> {
        let path = self.path.as_os_str();
        if path.is_empty() {
            return Err(Error::invalid_config(
                "sqlite: is not accepted: it needs the path of a file, as in sqlite:/var/lib/app/locks.db",
            ));
        }
        if path == ":memory:" {
            let text = "sqlite::memory: is not accepted: other processes could not see it; give the path of a file, or use the store memory:";
            return Err(Error::invalid_config(text));
        }
        if path.as_encoded_bytes().contains(&0) {
            return Err(Error::invalid_config("a path with a NUL is not accepted: give the path of a file"));
        }
        check_duration("poll_interval", self.poll_interval, &TIMEOUT_RANGE)?;
        check_duration("busy_timeout", self.busy_timeout, &(Duration::ZERO..=*TIMEOUT_RANGE.end()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<SqliteConfig> {
        SqliteConfig::from_url(&url.parse().unwrap())
    }

    #[test]
    fn a_url_and_its_keys_are_read() {
        let config = read("sqlite:/a%20b?busy_timeout=500ms&poll_interval=5ms&machine=adopt").unwrap();
        let mut expected = SqliteConfig::new("/a b");
        expected.busy_timeout = Duration::from_millis(500);
        expected.poll_interval = Duration::from_millis(5);
        expected.adopt = true;
        assert_eq!(config, expected);
        assert_eq!(read("sqlite:locks.db").unwrap(), SqliteConfig::new("locks.db"));
    }

    #[test]
    fn what_is_not_accepted_is_refused_with_what_would_be() {
        for (url, says) in [
            ("sqlite:", "path of a file"),
            ("sqlite::memory:", "path of a file"),
            ("sqlite:a%00b", "path of a file"),
            ("sqlite://host/locks.db", "sqlite:PATH"),
            ("sqlite:a?tpyo=1", "busy_timeout, poll_interval, machine"),
            ("sqlite:a?machine=yes", "adopt"),
            ("sqlite:a?poll_interval=0s", "1ms to 60s"),
            ("sqlite:a?busy_timeout=2m", "0s to 60s"),
            ("sqlite:a?busy_timeout=soon", "500ms"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }
}
