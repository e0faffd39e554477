//! [`Finding`]: a fact about a server that an operator should know.

use std::fmt;

use lock_core::Fault;

use crate::server_info::{ServerInfo, is_older_than};

/// A fact about a server that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The subject.
    pub kind: FindingKind,
    /// One line for people: the fact, the server, and the consequence.
    pub text: String,
}

/// The subject of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// Under memory pressure the server may evict locks.
    Evicts,
    /// The server does not keep every write through a crash or a power loss.
    NotPersisted,
    /// The server has replicas, and none of them must acknowledge a grant.
    UnacknowledgedReplicas,
    /// The server has had replicas that are away now and could take over when they are back.
    ReplicaAway,
    /// The server is older than the versions that the store was tried on.
    Old,
    /// This user may not ask, so that nothing is promised.
    Unknown,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl ServerInfo {
    /// The findings about this server, where `wait` replicas must acknowledge a grant.
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
