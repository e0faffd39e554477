//! [`PostgresConfig`]: the database and the table, and how to use them.

use std::fmt;
use std::time::Duration;

use lock_core::kit::{TIMEOUT_RANGE, check_duration};
use lock_core::{Error, Result, StoreUrl, Tls};

use crate::key::KeyForm;
use crate::libpq;
use crate::table::Table;

/// The database and the table, and how to use them: the same as a URL such as
/// `postgres://app:secret@10.0.0.1/orders?table=locks.lease`.
///
/// Settings that are left out come from where every PostgreSQL client takes them: `PGUSER`,
/// `PGPASSWORD` and the others, and the password file. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresConfig {
    /// The hosts with their ports, of which one is the primary. A host that begins with `/` is the
    /// folder of a socket. Empty: as the environment says.
    pub hosts: Vec<(String, Option<u16>)>,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The database.
    pub database: Option<String>,
    /// How far TLS is required; `None`: as `PGSSLMODE` says, or libpq's default `prefer`. In a URL:
    /// `sslmode`.
    pub tls_mode: Option<TlsMode>,
    /// The files of TLS; without a file of authorities, those that libpq would take are trusted.
    pub tls: Tls,
    /// The name of the connections, by default `leasehold` and the table.
    pub application_name: Option<String>,
    /// The table of leases, by default [`Table::DEFAULT`], or [`Table::DEFAULT_ADVISORY`] with
    /// advisory locks.
    pub table: Table,
    /// The form in which locks are kept.
    pub mode: Mode,
    /// A pooler that shares connections between transactions is in the way; `None`:
    /// detected at connect.
    pub pooler: Option<bool>,
    /// The kind of fail-over of the database; `None`: detected at connect.
    pub failover: Option<FailOver>,
    /// Maximum number of connections that each runtime uses for steps, by default
    /// [`DEFAULT_CONNECTIONS`](PostgresConfig::DEFAULT_CONNECTIONS). Renewals have up to 4 of their
    /// own, and the waiters of the process share one more.
    pub connections: usize,
    /// Time limit for connecting, by default
    /// [`DEFAULT_CONNECT_TIMEOUT`](PostgresConfig::DEFAULT_CONNECT_TIMEOUT).
    pub connect_timeout: Duration,
    /// Time limit for the reply to one step, by default
    /// [`DEFAULT_RESPONSE_TIMEOUT`](PostgresConfig::DEFAULT_RESPONSE_TIMEOUT).
    pub response_timeout: Duration,
    /// Poll interval of a waiter that cannot be notified of a release, by default
    /// [`DEFAULT_POLL_INTERVAL`](PostgresConfig::DEFAULT_POLL_INTERVAL).
    pub poll_interval: Duration,
    /// Age from which the row of a name that nobody locks may be removed; new names trigger that by
    /// chance. By default [`DEFAULT_PRUNE_AFTER`](PostgresConfig::DEFAULT_PRUNE_AFTER); zero:
    /// never.
    pub prune_after: Duration,
}

/// The form in which locks are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Lease rows in a table.
    Rows,
    /// Advisory locks on a connection, for programs that must exclude existing code that uses
    /// these: `mode=advisory`.
    Advisory(KeyForm),
}

/// The kind of fail-over of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailOver {
    /// No other server ever takes the place of this one.
    None,
    /// Only to a standby that has every commit that was answered.
    Synchronous,
    /// To a standby that may lag.
    Asynchronous,
}

/// The level of TLS that is required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS only if the server insists.
    Allow,
    /// TLS if the server supports it; the server is not authenticated.
    Prefer,
    /// Always TLS; the server is not authenticated.
    Require,
    /// The server's certificate must be of a trusted authority. In this mode the client takes the
    /// TLS provider that the process has chosen for `rustls`; if it has chosen none, `ring` is made
    /// its choice.
    VerifyCa,
    /// And be made out to this host.
    VerifyFull,
}

impl PostgresConfig {
    /// 8.
    pub const DEFAULT_CONNECTIONS: usize = 8;
    /// 2 seconds.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
    /// 2 seconds.
    pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
    /// 100 milliseconds.
    pub const DEFAULT_POLL_INTERVAL: Duration = Duration::from_millis(100);
    /// Seven days.
    pub const DEFAULT_PRUNE_AFTER: Duration = Duration::from_secs(7 * 24 * 3_600);

    const KEYS: [&str; 17] = [
        "table",
        "mode",
        "key_form",
        "pooler",
        "failover",
        "connections",
        "connect_timeout",
        "response_timeout",
        "poll_interval",
        "prune_after",
        "sslmode",
        "ca",
        "certificate",
        "key",
        "host",
        "application_name",
        "target_session_attrs",
    ];

    /// These hosts, with default settings.
    pub fn new(hosts: impl IntoIterator<Item = (String, Option<u16>)>) -> PostgresConfig {
        PostgresConfig {
            hosts: hosts.into_iter().collect(),
            user: None,
            password: None,
            database: None,
            tls_mode: None,
            tls: Tls::default(),
            application_name: None,
            table: Table::default(),
            mode: Mode::Rows,
            pooler: None,
            failover: None,
            connections: Self::DEFAULT_CONNECTIONS,
            connect_timeout: Self::DEFAULT_CONNECT_TIMEOUT,
            response_timeout: Self::DEFAULT_RESPONSE_TIMEOUT,
            poll_interval: Self::DEFAULT_POLL_INTERVAL,
            prune_after: Self::DEFAULT_PRUNE_AFTER,
        }
    }

    /// The configuration that `url` describes.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a part that there is not, an
    /// unknown key or a value out of range.
    pub fn from_url(url: &StoreUrl) -> Result<PostgresConfig> {
        let url = &libpq::with_own_keys(url)?;
        url.only_keys(&Self::KEYS)?;
        let mut config = PostgresConfig::new(url.hosts().iter().cloned());
        if let Some(host) = url.value("host") {
            if !config.hosts.is_empty() || !host.starts_with('/') {
                let text = "host= is not accepted: it takes the folder of a socket, in a URL without hosts";
                return Err(Error::invalid_config(text));
            }
            config.hosts.push((host.to_owned(), None));
        }
        config.user = url.user().filter(|user| !user.is_empty()).map(str::to_owned);
        config.password = url.password().map(str::to_owned);
        let database = url.path().trim_start_matches('/');
        config.database = (!database.is_empty()).then(|| database.to_owned());
        config.application_name = url.value("application_name").map(str::to_owned);
        if let Some(other) =
            url.value("target_session_attrs").filter(|value| !["read-write", "primary"].contains(value))
        {
            return Err(Error::invalid_config(format!(
                "target_session_attrs={other} is not accepted: locks need read-write"
            )));
        }
        config.mode = Mode::from_url(url)?;
        config.tls_mode = TlsMode::from_url(url)?;
        config.tls = Tls::from_url(url)?;
        let default = if config.mode == Mode::Rows { Table::DEFAULT } else { Table::DEFAULT_ADVISORY };
        config.table = Table::parse(url.value("table").unwrap_or(default))?;
        config.pooler = url.flag("pooler")?;
        config.failover = FailOver::from_url(url)?;
        config.set_limits(url)?;
        config.check()?;
        Ok(config)
    }

    /// Takes the numbers and times from the URL.
    fn set_limits(&mut self, url: &StoreUrl) -> Result<()> {
        if let Some(connections) = url.number("connections")? {
            self.connections = usize::try_from(connections).unwrap_or(usize::MAX);
        }
        for (key, time) in [
            ("connect_timeout", &mut self.connect_timeout),
            ("response_timeout", &mut self.response_timeout),
            ("poll_interval", &mut self.poll_interval),
        ] {
            *time = url.duration_in(key, &TIMEOUT_RANGE)?.unwrap_or(*time);
        }
        self.prune_after = url.duration("prune_after")?.unwrap_or(self.prune_after);
        Ok(())
    }

    /// Checks the settings, as far as that is possible without a server.
    pub(crate) fn check(&self) -> Result<()> {
        for (key, time) in [
            ("connect_timeout", self.connect_timeout),
            ("response_timeout", self.response_timeout),
            ("poll_interval", self.poll_interval),
        ] {
            check_duration(key, time, &TIMEOUT_RANGE)?;
        }
        if !(1..=1_000).contains(&self.connections) {
            return Err(Error::invalid_config(format!(
                "connections={} is not accepted: it takes 1 to 1000",
                self.connections
            )));
        }
        if self.prune_after > Duration::ZERO && self.prune_after < Duration::from_secs(1) {
            return Err(Error::invalid_config(
                "prune_after is not accepted: it takes a second or more, or 0s for never",
            ));
        }
        self.tls.check()
    }

    /// The hosts and the database, for messages.
    pub(crate) fn location(&self) -> String {
        let host = |(host, port): &(String, Option<u16>)| match port {
            Some(port) => format!("{host}:{port}"),
            None => host.clone(),
        };
        let hosts: Vec<_> = self.hosts.iter().map(host).collect();
        format!("postgres {}/{}", hosts.join(","), self.database.as_deref().unwrap_or_default())
    }
}

impl Mode {
    fn from_url(url: &StoreUrl) -> Result<Mode> {
        match (url.value("mode"), url.value("key_form")) {
            (None | Some("rows"), None) => Ok(Mode::Rows),
            (None | Some("rows"), Some(_)) => {
                Err(Error::invalid_config("key_form= is not accepted without mode=advisory: lease rows have no keys"))
            }
            // Before TLS had keys of its own, the form was called so.
            (Some("advisory"), None) if url.value("key").is_some_and(|key| KeyForm::parse(key).is_ok()) => {
                Err(Error::invalid_config("key= names a file of TLS; the form of advisory keys is key_form="))
            }
            (Some("advisory"), form) => Ok(Mode::Advisory(form.map_or(Ok(KeyForm::default()), KeyForm::parse)?)),
            (Some(other), _) => {
                Err(Error::invalid_config(format!("mode={other} is not accepted: it takes rows or advisory")))
            }
        }
    }
}

impl FailOver {
    fn from_url(url: &StoreUrl) -> Result<Option<FailOver>> {
        match url.value("failover") {
            None => Ok(None),
            Some("none") => Ok(Some(FailOver::None)),
            Some("synchronous") => Ok(Some(FailOver::Synchronous)),
            Some("asynchronous") => Ok(Some(FailOver::Asynchronous)),
            Some(other) => {
                let text = format!("failover={other} is not accepted: it takes none, synchronous or asynchronous");
                Err(Error::invalid_config(text))
            }
        }
    }
}

impl TlsMode {
    fn from_url(url: &StoreUrl) -> Result<Option<TlsMode>> {
        Ok(Some(match url.value("sslmode") {
            None => return Ok(None),
            Some("disable") => TlsMode::Disable,
            Some("allow") => TlsMode::Allow,
            Some("prefer") => TlsMode::Prefer,
            Some("require") => TlsMode::Require,
            Some("verify-ca") => TlsMode::VerifyCa,
            Some("verify-full") => TlsMode::VerifyFull,
            Some(other) => {
                return Err(Error::invalid_config(format!(
                    "sslmode={other} is not accepted: it takes disable, allow, prefer, require, verify-ca or verify-full"
                )));
            }
        }))
    }
}

impl fmt::Debug for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresConfig")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("tls_mode", &self.tls_mode)
            .field("tls", &self.tls)
            .field("table", &self.table)
            .field("mode", &self.mode)
            .field("pooler", &self.pooler)
            .field("failover", &self.failover)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use lock_core::ErrorKind;

    use super::*;

    fn read(url: &str) -> Result<PostgresConfig> {
        PostgresConfig::from_url(&url.parse().unwrap())
    }

    #[test]
    fn every_form_of_url_is_read() {
        let config = read("postgres://me:p%40ss@a:7000,b/orders?table=locks.lease&sslmode=verify-full&failover=none");
        let config = config.unwrap();
        assert_eq!(config.hosts, [("a".to_owned(), Some(7000)), ("b".to_owned(), None)]);
        assert_eq!((config.user.as_deref(), config.password.as_deref()), (Some("me"), Some("p@ss")));
        assert_eq!((config.database.as_deref(), config.failover), (Some("orders"), Some(FailOver::None)));
        assert_eq!(config.tls_mode, Some(TlsMode::VerifyFull));
        assert_eq!(config.table.to_string(), "locks.lease");
        let config = read("postgresql:///db?host=/run/postgresql&mode=advisory&key_form=sqlx&pooler=false").unwrap();
        assert_eq!(config.hosts, [("/run/postgresql".to_owned(), None)]);
        assert_eq!((config.mode, config.pooler), (Mode::Advisory(KeyForm::Sqlx), Some(false)));
        assert_eq!(config.table.to_string(), Table::DEFAULT_ADVISORY);
    }

    #[test]
    fn what_is_not_accepted_is_refused_with_what_would_be() {
        for (url, says) in [
            ("postgres://a?tpyo=1", "table, mode"),
            ("postgres://a?table=x;drop", "letters"),
            ("postgres://a?table=a.b.c", "schema.name"),
            ("postgres://a?mode=row", "rows or advisory"),
            ("postgres://a?key_form=sqlx", "mode=advisory"),
            ("postgres://a?mode=advisory&key_form=md5", "sqlx"),
            ("postgres://a?mode=advisory&key=sqlx", "key_form="),
            ("postgres://a?failover=maybe", "synchronous"),
            ("postgres://a?connections=0", "1 to 1000"),
            ("postgres://a?connect_timeout=0s", "1ms to 60s"),
            ("postgres://a?sslmode=on", "verify-full"),
            ("postgres://a?certificate=x", "both or neither"),
            ("postgres://a?sslcert=x", "both or neither"),
            ("postgres://a?cert=x", "write certificate"),
            ("postgres://a?timeout=1s", "write response_timeout"),
            ("postgres://a?host=/run", "without hosts"),
            ("postgres://a?target_session_attrs=any", "read-write"),
        ] {
            let error = read(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}");
            assert!(error.to_string().contains(says), "{url}: {error}");
        }
    }

    #[test]
    fn no_debug_shows_a_password() {
        let config = read("postgres://me:hunter2@a/db").unwrap();
        assert!(!format!("{config:?}").contains("hunter"), "{config:?}");
    }
}
