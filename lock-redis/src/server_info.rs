//! [`ServerInfo`]: what a server says of itself, and what that promises.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{ClockKind, Expiry, Fault, Faults, Guarantees, Retention, WaitStyle};
use redis::{Pipeline, Value};

use crate::connector::Connector;
use crate::node::Node;
use crate::router::needs_cluster_url;

/// What a server says of itself, as far as this user may ask. What is not known promises nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerInfo {
    name: String,
    version: Option<String>,
    uptime: Option<Duration>,
    replicas: Option<u32>,
    /// It has replicas, or has had some that may come back.
    has_had_replicas: bool,
    is_replica: bool,
    /// What it takes part in: `standalone`, `cluster` or `sentinel`.
    mode: Option<String>,
    /// The answers to `CONFIG GET`.
    settings: HashMap<String, String>,
}

/// One thing that an operator should know of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about.
    pub kind: FindingKind,
    /// One line for people: what was found, where, and what it means.
    pub text: String,
}

/// What a [`Finding`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// Under memory pressure the server may throw locks away.
    Evicts,
    /// The server does not keep every write through a crash or a power loss.
    NotPersisted,
    /// The server has replicas, and none of them must acknowledge a grant.
    UnacknowledgedReplicas,
    /// The server has had replicas that are away now, and could take over when they are back.
    ReplicaAway,
    /// The server is older than what the store was tried on.
    Old,
    /// This user may not ask, so that nothing is promised.
    Unknown,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

const INFO_SECTIONS: [&str; 2] = ["server", "replication"];
const CONFIG_SETTINGS: [&str; 5] =
    ["maxmemory-policy", "appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save"];

/// What one server promises that syncs every write before it answers, and has no replica that could take over. An
/// expiry is a moment of its wall clock, so that a step of that clock ends or prolongs a lease; a counter does not
/// notice.
pub(crate) const BEST_GUARANTEES: Guarantees = guarantees_with(
    Faults::of(&[Fault::Crash, Fault::PowerLoss]),
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
);

const fn guarantees_with(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::Wall))
        .waiting(WaitStyle::Notified)
}

/// What all these servers promise together.
pub(crate) fn guarantees(servers: &[ServerInfo], may_fail_over: bool) -> Guarantees {
    let (mut records, mut tokens) =
        (BEST_GUARANTEES.records_survive, BEST_GUARANTEES.tokens_survive.unwrap_or_default());
    if may_fail_over {
        tokens = tokens - Fault::FailOver.into();
    }
    if servers.is_empty() {
        (records, tokens) = (Faults::NONE, Faults::NONE);
    }
    for server in servers {
        let durable = server.durability();
        records = records - (Faults::ALL - durable);
        // A clock and a pause do not touch what is kept in memory.
        tokens = tokens - (Faults::of(&[Fault::Crash, Fault::PowerLoss]) - durable);
        if server.replicas != Some(0) || server.has_had_replicas || server.is_replica {
            tokens = tokens - Fault::FailOver.into();
        }
        match server.evicts() {
            Some(false) => {}
            // Counters have no expiry, so that only some policies reach them; locks have one.
            _ => {
                records = Faults::NONE;
                if server.setting("maxmemory-policy").is_none_or(|policy| !policy.starts_with("volatile")) {
                    tokens = Faults::NONE;
                }
            }
        }
    }
    guarantees_with(records, tokens)
}

impl ServerInfo {
    /// The questions, in one round trip; [`parse`](ServerInfo::parse) reads the answers.
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

    /// What the server named so answered; an answer that is an error is none.
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
        // What replicas leave behind: what they may still have to be sent, for an hour unless it is set otherwise; the
        // history that a replica had which became this master; and, in versions that count nothing else so, how much was sent.
        let is_set =
            |name: &str| field(name).is_some_and(|value| value.bytes().any(|byte| !matches!(byte, b'0' | b'-')));
        let sent = is_set("master_repl_offset")
            && server.version.as_deref().is_some_and(|version| is_older_than(version, 7, 2));
        server.has_had_replicas =
            is_set("connected_slaves") || is_set("repl_backlog_active") || is_set("master_replid2") || sent;
        server
    }

    /// Asks a server.
    pub(crate) async fn look(node: &Arc<Node>) -> ServerInfo {
        let answers = node.commands("looking at the server", &ServerInfo::queries()).await;
        ServerInfo::parse(node.name(), answers.unwrap_or_default())
    }

    /// How far back it remembered, for certain, when it was asked. One that says nothing of itself, or that may throw
    /// locks away at any time, is not known to remember anything.
    pub(crate) fn retention(&self) -> Retention {
        const CRASH_AND_POWER_LOSS: Faults = Faults::of(&[Fault::Crash, Fault::PowerLoss]);
        if self.evicts() != Some(false) {
            return Retention::Since(Duration::ZERO);
        }
        if self.durability().contains(CRASH_AND_POWER_LOSS) {
            return Retention::Complete;
        }
        // Whole seconds, the first and the last of which need not have been whole.
        Retention::Since(self.uptime.unwrap_or_default().saturating_sub(Duration::from_secs(2)))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn is_replica(&self) -> bool {
        self.is_replica
    }

    /// Why it cannot be used as the place that was given, if it says that it is another.
    pub(crate) fn topology_mismatch(&self, connector: &Connector) -> Option<String> {
        match self.mode.as_deref() {
            Some("cluster") if !connector.is_cluster() => Some(needs_cluster_url(&self.name, connector.endpoint())),
            Some("sentinel") => {
                Some(format!("{} is a sentinel: give it as redis-sentinel://HOST,HOST,HOST/SERVICE", self.name))
            }
            _ => None,
        }
    }

    fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    fn evicts(&self) -> Option<bool> {
        self.setting("maxmemory-policy").map(|policy| policy != "noeviction")
    }

    /// What it keeps of what it has answered.
    ///
    /// With `everysec` the server may answer before it has written at all, while an earlier sync takes its time: then a
    /// crash of the process alone loses what was answered. With `no` it always writes first, and never syncs.
    fn durability(&self) -> Faults {
        match (self.setting("appendonly"), self.setting("appendfsync"), self.setting("no-appendfsync-on-rewrite")) {
            (Some("yes"), Some("always"), Some("no")) => Faults::of(&[Fault::Crash, Fault::PowerLoss]),
            (Some("yes"), Some("always" | "no"), _) => Fault::Crash.into(),
            _ => Faults::NONE,
        }
    }

    pub(crate) fn findings(&self, wait: u32) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |kind, text: String| findings.push(Finding { kind, text: format!("{}: {text}", self.name) });
        if let (Some(true), Some(policy)) = (self.evicts(), self.setting("maxmemory-policy")) {
            let text = format!("maxmemory-policy {policy} may throw away locks that are held; set it to noeviction");
            add(FindingKind::Evicts, text);
        }
        let durable = self.durability();
        if self.setting("appendonly").is_some() && !durable.contains(Fault::PowerLoss.into()) {
            let survives = if durable.is_empty() { "a crash or a power loss" } else { "a power loss" };
            let text = format!(
                "locks and tokens that were given may not survive {survives}; for that it needs appendonly yes, appendfsync always and no-appendfsync-on-rewrite no"
            );
            add(FindingKind::NotPersisted, text);
        }
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas > 0 && wait == 0) {
            let text = format!(
                "it has {replicas} replicas, and a fail-over to one that lags forgets locks and tokens; wait=N makes that less likely and not impossible"
            );
            add(FindingKind::UnacknowledgedReplicas, text);
        }
        if self.replicas == Some(0) && self.has_had_replicas && !self.is_replica {
            let text = "it has had replicas, which are away now: a fail-over to one that is behind forgets locks and tokens; if there will be none, restart it";
            add(FindingKind::ReplicaAway, text.to_owned());
        }
        if let Some(version) = self.version.as_deref().filter(|version| is_older_than(version, 7, 0)) {
            add(FindingKind::Old, format!("version {version} is older than 7.0, on which this store was tried"));
        }
        if self.settings.is_empty() || self.replicas.is_none() {
            let text = "this user may not ask for its settings (CONFIG GET) and state (INFO), so that it is taken to keep nothing";
            add(FindingKind::Unknown, text.to_owned());
        }
        findings
    }
}

fn is_older_than(version: &str, major: u32, minor: u32) -> bool {
    let mut numbers = version.split('.').map(|number| number.trim().parse::<u32>().ok());
    let is = (numbers.next().flatten(), numbers.next().flatten().unwrap_or(0));
    is.0.is_some_and(|first| (first, is.1) < (major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(fsync: &str, replicas: Option<u32>, policy: &str) -> ServerInfo {
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

    fn tokens(servers: &[ServerInfo]) -> Faults {
        guarantees(servers, false).tokens_survive.unwrap()
    }

    fn is_for_correctness(servers: &[ServerInfo]) -> bool {
        guarantees(servers, false).shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty()
    }

    #[test]
    fn only_one_server_that_syncs_every_write_is_for_correctness() {
        let best = server("always", Some(0), "noeviction");
        assert_eq!(guarantees(std::slice::from_ref(&best), false), BEST_GUARANTEES);
        assert!(is_for_correctness(std::slice::from_ref(&best)) && best.findings(0).is_empty());
        for weaker in [
            server("everysec", Some(0), "noeviction"),
            server("no", Some(0), "noeviction"),
            server("", Some(0), "noeviction"),
            server("always", Some(1), "noeviction"),
            server("always", None, "noeviction"),
            server("always", Some(0), "allkeys-lru"),
        ] {
            assert!(!is_for_correctness(std::slice::from_ref(&weaker)), "{weaker:?}");
            assert!(!weaker.findings(0).is_empty(), "{weaker:?}");
            assert!(!is_for_correctness(&[best.clone(), weaker]));
        }
        assert!(guarantees(std::slice::from_ref(&best), true).shortfalls(&Guarantees::FOR_CORRECTNESS).len() == 1);
    }

    #[test]
    fn what_a_server_does_not_say_it_does_not_promise() {
        let silent = ServerInfo { name: "s".to_owned(), ..ServerInfo::default() };
        assert_eq!(guarantees(&[], false).records_survive, Faults::NONE);
        assert_eq!(guarantees(std::slice::from_ref(&silent), false).records_survive, Faults::NONE);
        assert_eq!(tokens(std::slice::from_ref(&silent)), Faults::NONE);
        assert_eq!(silent.findings(0)[0].kind, FindingKind::Unknown);
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
        assert!(server.is_replica());
        assert_eq!((server.uptime, server.replicas), (Some(Duration::from_secs(7)), Some(2)));
        assert_eq!((server.version.as_deref(), server.setting("appendonly")), (Some("7.0.15"), Some("yes")));
    }

    #[test]
    fn what_replicas_leave_behind_is_known() {
        let none = "role:master\r\nconnected_slaves:0\r\nmaster_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n";
        let server = |version: &str, replication: &str| {
            let said = format!("redis_version:{version}\r\n{replication}");
            let said = ServerInfo::parse("s", vec![Value::BulkString(said.into_bytes())]);
            ServerInfo { settings: super::tests::server("always", Some(0), "noeviction").settings, ..said }
        };
        assert!(is_for_correctness(&[server("7.0.15", none)]));
        // From 7.2 on it counts what was never sent, too.
        assert!(is_for_correctness(&[server("7.2.4", &none.replace("repl_offset:0", "repl_offset:9"))]));
        for left in [
            none.replace("active:0", "active:1"),
            none.replace("replid2:0", "replid2:a"),
            none.replace("repl_offset:0", "repl_offset:9"),
        ] {
            let server = server("7.0.15", &left);
            assert!(!is_for_correctness(std::slice::from_ref(&server)), "{left}");
            assert_eq!(server.findings(0)[0].kind, FindingKind::ReplicaAway);
        }
    }

    #[test]
    fn a_sync_every_second_survives_no_crash_and_none_at_all_does() {
        assert_eq!(guarantees(&[server("everysec", Some(0), "noeviction")], false).records_survive, Faults::NONE);
        assert_eq!(guarantees(&[server("no", Some(0), "noeviction")], false).records_survive, Fault::Crash.into());
    }

    #[test]
    fn eviction_of_keys_with_an_expiry_spares_the_counters() {
        let evicting = guarantees(&[server("always", Some(0), "volatile-lru")], false);
        assert_eq!(evicting.records_survive, Faults::NONE);
        assert_eq!(evicting.tokens_survive, BEST_GUARANTEES.tokens_survive);
    }
}
