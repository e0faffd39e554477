//! [`ServerInfo`]: a server's own report of its state and settings.

use std::collections::HashMap;
use std::time::Duration;

use lock_core::{Fault, Faults, Retention};
use redis::{Pipeline, Value};

use crate::connector::Connector;

/// A server's own report of its state and settings, as far as this user may ask. An unknown part
/// promises nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    pub(crate) uptime: Option<Duration>,
    pub(crate) replicas: Option<u32>,
    /// It has replicas, or has had some that may come back.
    pub(crate) has_had_replicas: bool,
    pub(crate) is_replica: bool,
    /// `redis_mode`: `standalone`, `cluster` or `sentinel`.
    pub(crate) mode: Option<String>,
    /// The answers to `CONFIG GET`.
    pub(crate) settings: HashMap<String, String>,
}

/// The sections of `INFO` that are read.
const INFO_SECTIONS: [&str; 2] = ["server", "replication"];
/// The settings that are read with `CONFIG GET`.
const CONFIG_SETTINGS: [&str; 5] =
    ["maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save"];

impl ServerInfo {
    /// The queries, one pipeline; [`parse`](ServerInfo::parse) reads the answers.
    pub(crate) fn queries() -> Pipeline {
        let mut queries = redis::pipe();
        for section in INFO_SECTIONS {
            queries.cmd("INFO").arg(section);
        }
        for setting in CONFIG_SETTINGS {
            queries.cmd("CONFIG").arg("GET").arg(setting);
        }
        queries
    }

    /// The state and settings in the answers of the server `name`. An error counts as no answer.
    pub(crate) fn parse(name: &str, answers: Vec<Value>) -> ServerInfo {
        let mut server = ServerInfo { name: name.to_owned(), ..ServerInfo::default() };
        let mut info = String::new();
        for answer in answers {
            match answer {
                Value::Map(_) | Value::Array(_) => {
                    server
                        .settings
                        .extend(redis::from_redis_value::<HashMap<String, String>>(answer).unwrap_or_default());
                }
                answer => info.push_str(&redis::from_redis_value::<String>(answer).unwrap_or_default()),
            }
        }
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        server.version = field("redis_version").map(str::to_owned);
        server.uptime = field("uptime_in_seconds").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        server.replicas = field("connected_slaves").and_then(|count| count.parse().ok());
        server.is_replica = field("role").is_some_and(|role| role != "master");
        server.mode = field("redis_mode").map(str::to_owned);
        // Traces that replicas leave: the backlog, for an hour unless it is set otherwise; the
        // history of a replica that became this master; and the offset of what was sent, in
        // versions that count nothing else there.
        let is_set =
            |name: &str| field(name).is_some_and(|value| value.bytes().any(|byte| !matches!(byte, b'0' | b'-')));
        let sent = is_set("master_repl_offset")
            && server.version.as_deref().is_some_and(|version| is_older_than(version, 7, 2));
        server.has_had_replicas =
            is_set("connected_slaves") || is_set("repl_backlog_active") || is_set("master_replid2") || sent;
        server
    }

    /// Retention that was certain when the server was asked: none if it says nothing of itself, or
    /// may evict locks at any time.
    pub(crate) fn retention(&self) -> Retention {
        const CRASH_AND_POWER_LOSS: Faults = Faults::of(&[Fault::Crash, Fault::PowerLoss]);
        if self.evicts() != Some(false) {
            return Retention::Since(Duration::ZERO);
        }
        if self.durability().contains(CRASH_AND_POWER_LOSS) {
            return Retention::Complete;
        }
        // The uptime is in whole seconds, of which the first and the last may be partial.
        Retention::Since(self.uptime.unwrap_or_default().saturating_sub(Duration::from_secs(2)))
    }

    /// The reason for which the server does not fit the configured topology, if it reports another
    /// one.
    pub(crate) fn topology_mismatch(&self, connector: &Connector) -> Option<String> {
        match self.mode.as_deref() {
            Some("cluster") if !connector.is_cluster() => Some(connector.endpoint().cluster_hint(&self.name)),
            Some("sentinel") => {
                Some(format!("{} is a sentinel: give it as redis-sentinel://HOST,HOST,HOST/SERVICE", self.name))
            }
            _ => None,
        }
    }

    /// A setting, if it is known.
    pub(crate) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    /// True if memory pressure may evict keys; `None` if that is not known.
    pub(crate) fn evicts(&self) -> Option<bool> {
        self.setting("maxmemory-policy").map(|policy| policy != "noeviction")
    }

    /// The faults that a write survives once it is answered.
    ///
    /// With `everysec` the server may answer before it has written at all, while an earlier sync is
    /// slow: then even a crash of the process loses what was answered. With `no` it always writes
    /// first, and never syncs.
    pub(crate) fn durability(&self) -> Faults {
        match (self.setting("appendonly"), self.setting("appendfsync"), self.setting("no-appendfsync-on-rewrite")) {
            (Some("yes"), Some("always"), Some("no")) => Faults::of(&[Fault::Crash, Fault::PowerLoss]),
            (Some("yes"), Some("always" | "no"), _) => Fault::Crash.into(),
            _ => Faults::NONE,
        }
    }
}

/// True if a version is before `major.minor`.
pub(crate) fn is_older_than(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.trim().parse::<u32>().ok());
    let is = (numbers.next().flatten(), numbers.next().flatten().unwrap_or(0));
    is.0.is_some_and(|first| (first, is.1) < (major, minor))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A server with these settings, as it reports itself.
    pub(crate) fn server(fsync: &str, replicas: Option<u32>, policy: &str) -> ServerInfo {
        let settings = [
            ("appendonly", if fsync.is_empty() { "no" } else { "yes" }),
            ("appendfsync", fsync),
            ("no-appendfsync-on-rewrite", "no"),
            ("maxmemory-policy", policy),
        ];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        ServerInfo {
            name: "s".to_owned(),
            version: Some("7.0.15".to_owned()),
            uptime: Some(Duration::from_secs(100)),
            replicas,
            has_had_replicas: false,
            is_replica: false,
            mode: None,
            settings,
        }
    }

    #[test]
    fn a_server_remembers_everything_if_it_keeps_every_write_and_else_for_as_long_as_it_has_run() {
        assert_eq!(server("always", Some(0), "noeviction").retention(), Retention::Complete);
        for weaker in ["everysec", "no", ""] {
            let since = Retention::Since(Duration::from_secs(98));
            assert_eq!(server(weaker, Some(0), "noeviction").retention(), since, "{weaker}");
        }
        let nothing = Retention::Since(Duration::ZERO);
        assert_eq!(server("always", Some(0), "volatile-lru").retention(), nothing);
        assert_eq!(ServerInfo { uptime: None, ..server("", Some(0), "noeviction") }.retention(), nothing);
        assert_eq!(ServerInfo::default().retention(), nothing);
    }

    #[test]
    fn what_a_server_says_is_read() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let setting = Value::Map(vec![(text("appendonly"), text("yes"))]);
        let said = "# Server\r\nredis_version:7.0.15\r\nuptime_in_seconds:7\r\n";
        let server =
            ServerInfo::parse("s", vec![text(said), text("role:slave\r\nconnected_slaves:2\r\n"), setting, Value::Nil]);
        assert!(server.is_replica);
        assert_eq!((server.uptime, server.replicas), (Some(Duration::from_secs(7)), Some(2)));
        assert_eq!((server.version.as_deref(), server.setting("appendonly")), (Some("7.0.15"), Some("yes")));
    }
}
