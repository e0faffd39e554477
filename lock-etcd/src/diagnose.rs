//! The diagnosis of an [`EtcdStore`](crate::EtcdStore): its endpoints, its cluster and its data.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, StatusResponse};
use futures_util::future::{join, join_all, join4};
use lock_core::{Error, ErrorKind, Finding, Guarantees, Result};

use crate::backend::Backend;
use crate::call::CallKind;
use crate::error::AttemptError;
use crate::lease_grant::grant;
use crate::realm_mark::RealmMark;

/// The codes of the findings. Every answer has each of them.
pub(crate) const FINDING_CODES: &[&str] =
    &["endpoint", "version", "database-size", "quorum", "alarms", "shortest-ttl", "guarantees", "realm"];

/// Time limit for the questions to the cluster as a whole, in member time-outs: enough for one that
/// has just lost its leader to fail over, and less than the time for one call to the store, so that
/// an endpoint that answers is not lost with the answer of the cluster.
const CLUSTER_TIMEOUTS: u32 = 4;

/// Share of the quota, in percent, from which a database is about to be full.
const NEARLY_FULL_PERCENT: i64 = 80;

impl Backend {
    /// The findings about every endpoint, and about the cluster.
    ///
    /// # Errors
    ///
    /// The error of the cluster, if no endpoint answers.
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        let endpoints = join_all((0..self.members.len()).map(|index| self.endpoint_findings(index)));
        let (endpoints, cluster) = join(endpoints, self.cluster_findings()).await;
        let is_silent = |failed: &AttemptError| !failed.reached || failed.error.kind() == ErrorKind::TimedOut;
        if endpoints.iter().all(|endpoint| endpoint.as_ref().is_err_and(is_silent)) {
            return Err(endpoints.into_iter().find_map(Result::err).expect("BUG: there is an endpoint").error);
        }
        let mut findings = Vec::new();
        for (index, endpoint) in endpoints.into_iter().enumerate() {
            match endpoint {
                Ok(found) => findings.extend(found.map(|finding| finding.about(self.members.endpoint(index)))),
                Err(failed) => {
                    let silent = Finding::warning("endpoint", format!("it gives no status: {}", failed.error));
                    findings.push(silent.about(self.members.endpoint(index)));
                }
            }
        }
        findings.extend(cluster);
        Ok(findings)
    }

    async fn endpoint_findings(&self, index: usize) -> Result<[Finding; 3], AttemptError> {
        let status = |client: Arc<Client>| async move { client.maintenance_client().status().await };
        let status = self.members.call_member(index, "reading the status", &status).await?;
        Ok([role_finding(&status), version_finding(status.version()), size_finding(&status)])
    }

    async fn cluster_findings(&self) -> [Finding; 5] {
        let alarms = async {
            let get = |client: Arc<Client>| async move {
                client.maintenance_client().alarm(AlarmAction::Get, AlarmType::None, None).await
            };
            let reply = self.members.call(CallKind::Request, "reading the alarms", get).await?.value;
            let raised = reply.alarms().iter().map(|alarm| format!("{:?} at {:x}", alarm.alarm(), alarm.member_id()));
            Ok(raised.collect::<Vec<_>>())
        };
        let voters = async {
            let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
            let reply = self.members.call(CallKind::Request, "listing the members", list).await?.value;
            Ok(reply.members().iter().filter(|member| !member.is_learner()).count())
        };
        let shortest_ttl = async {
            let (lease_id, ttl) = grant(&self.members, Duration::from_secs(1)).await?;
            self.revoke(lease_id).await;
            Ok(ttl)
        };
        let mark = RealmMark::load(&self.members, &self.layout);
        let (alarms, voters, shortest_ttl, mark) =
            join4(self.limited(alarms), self.limited(voters), self.limited(shortest_ttl), self.limited(mark)).await;
        let now = Guarantees::of_consensus(*voters.as_ref().unwrap_or(&self.voters));
        [
            quorum_finding(&voters),
            alarms_finding(&alarms),
            match shortest_ttl {
                Ok(ttl) => Finding::info("shortest-ttl", format!("{ttl:?}; shorter ones are raised to it")),
                Err(error) => Finding::error("shortest-ttl", format!("no lease is granted, and so no lock: {error}")),
            },
            Finding::guarantees(&Guarantees::of_consensus(self.voters), &now),
            self.realm_finding(mark),
        ]
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let limit = self.members.timeout() * CLUSTER_TIMEOUTS;
        tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
            let text = format!("the cluster brought no answer within {limit:?}");
            Err(Error::refused(ErrorKind::TimedOut, text))
        })
    }

    fn realm_finding(&self, mark: Result<Option<RealmMark>>) -> Finding {
        let known = self.realm();
        match mark {
            Ok(Some(mark)) if mark.realm == known => Finding::info("realm", known.to_string()),
            Ok(mark) => {
                let now = mark.map_or_else(|| "of no realm".to_owned(), |mark| format!("of realm {}", mark.realm));
                let text = format!("the data is {now}, and this process knows {known}: connect again");
                Finding::error("realm", text)
            }
            Err(error) => Finding::error("realm", format!("it cannot be read: {error}")),
        }
    }
}

fn role_finding(status: &StatusResponse) -> Finding {
    let is_leader = status.header().is_some_and(|header| header.member_id() == status.leader());
    match status.errors() {
        [] if status.leader() == 0 => Finding::warning("endpoint", "it answers, and has no leader"),
        [] if is_leader => Finding::info("endpoint", "it answers, and is the leader"),
        [] if status.is_learner() => Finding::info("endpoint", "it answers, and is a learner without a vote"),
        [] => Finding::info("endpoint", "it answers, and is a follower"),
        reported => Finding::warning("endpoint", format!("it answers, and reports: {}", reported.join("; "))),
    }
}

fn version_finding(version: &str) -> Finding {
    match may_revoke_early(version) {
        false => Finding::info("version", version),
        true => {
            let text = format!(
                "{version:?} may end a renewed lease early after its leader was paused: only a fence helps there; use \
                 3.5.11 or later"
            );
            Finding::warning("version", text)
        }
    }
}

fn size_finding(status: &StatusResponse) -> Finding {
    let (size, quota) = (status.db_size(), status.db_size_quota());
    // Servers before 3.6 do not tell their quota.
    if quota <= 0 {
        return Finding::info("database-size", format!("{size} bytes"));
    }
    let text = format!("{size} of {quota} bytes");
    match size / (quota / 100).max(1) >= NEARLY_FULL_PERCENT {
        true => {
            let text =
                format!("{text}: writes are refused when it is full; compact and defragment it, or raise the quota");
            Finding::warning("database-size", text)
        }
        false => Finding::info("database-size", text),
    }
}

fn quorum_finding(voters: &Result<usize>) -> Finding {
    match voters {
        Ok(voters) => Finding::info("quorum", format!("{voters} members vote, and {} must answer", voters / 2 + 1)),
        Err(error) => Finding::error("quorum", format!("the members cannot be listed: {error}")),
    }
}

fn alarms_finding(alarms: &Result<Vec<String>>) -> Finding {
    match alarms {
        Ok(alarms) if alarms.is_empty() => Finding::info("alarms", "none is raised"),
        Ok(alarms) => {
            let text =
                format!("{}: writes are refused until the cause is gone and the alarm disarmed", alarms.join(", "));
            Finding::error("alarms", text)
        }
        Err(error) => Finding::warning("alarms", format!("they cannot be read: {error}")),
    }
}

/// True for servers without the fix of etcd#16822, which is in 3.5.11 and in 3.6, and for texts
/// that are no version.
fn may_revoke_early(version: &str) -> bool {
    let mut numbers = version.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor), Some(patch)) => (major, minor, patch) < (3, 5, 11),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use lock_core::{Effect, Severity};

    use super::*;

    #[test]
    fn old_servers_are_named() {
        for (version, old) in [("3.4.23", true), ("3.5.10", true), ("3.5.11", false), ("3.6.0-rc.1", false), ("", true)]
        {
            assert_eq!(may_revoke_early(version), old, "{version}");
            assert_eq!(version_finding(version).severity > Severity::Info, old, "{version}");
        }
    }

    #[test]
    fn alarms_stop_the_store_and_those_that_cannot_be_read_are_a_warning() {
        let denied = Err(Error::new(ErrorKind::Denied, Effect::None, "permission denied"));
        let severities = [Ok(Vec::new()), Ok(vec!["Nospace at 1".to_owned()]), denied].map(|alarms| {
            let finding = alarms_finding(&alarms);
            (finding.code, finding.severity)
        });
        let expected = [Severity::Info, Severity::Error, Severity::Warning].map(|severity| ("alarms", severity));
        assert_eq!(severities, expected);
    }
}
