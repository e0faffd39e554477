//! [`Diagnosis`]: the state of a cluster, for its operators.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client};
use lock_core::Result;

use crate::backend::Backend;
use crate::call::CallKind;
use crate::lease_grant::grant;

/// The state of a cluster, for its operators.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The endpoints that this store uses.
    pub members: Vec<MemberDiagnosis>,
    /// Number of voting members.
    pub voters: usize,
    /// Number of voting members that must reply to each call.
    pub quorum: usize,
    /// The alarms that are raised, such as a full disk.
    pub alarms: Vec<String>,
    /// The shortest TTL that the cluster grants. Shorter ones are raised to it.
    pub shortest_ttl: Duration,
}

/// The state of one endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberDiagnosis {
    /// Its URL.
    pub endpoint: String,
    /// Its version; `None` if it does not reply.
    pub version: Option<String>,
    /// True for the leader.
    pub leads: bool,
    /// True if a server of this version may end a renewed lease early after its leader was paused.
    /// Only a fence helps there.
    pub may_revoke_early: bool,
    /// The error of an endpoint that does not reply.
    pub failure: Option<String>,
}

impl Backend {
    pub(crate) async fn diagnose(&self) -> Result<Diagnosis> {
        let mut members = Vec::new();
        for index in 0..self.members.len() {
            members.push(self.diagnose_member(index).await);
        }
        let alarms = |client: Arc<Client>| async move {
            client.maintenance_client().alarm(AlarmAction::Get, AlarmType::None, None).await
        };
        let alarms = self.members.call(CallKind::Request, "reading the alarms", alarms).await?.value;
        let alarms = alarms.alarms().iter().map(|alarm| format!("{:?} at {:x}", alarm.alarm(), alarm.member_id()));
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let list = self.members.call(CallKind::Request, "listing the members", list).await?.value;
        let voters = list.members().iter().filter(|member| !member.is_learner()).count();
        let (lease_id, shortest_ttl) = grant(&self.members, Duration::from_secs(1)).await?;
        self.revoke(lease_id).await;
        Ok(Diagnosis { members, voters, quorum: voters / 2 + 1, alarms: alarms.collect(), shortest_ttl })
    }

    async fn diagnose_member(&self, index: usize) -> MemberDiagnosis {
        let endpoint = self.members.endpoint(index).to_owned();
        let status = |client: Arc<Client>| async move { client.maintenance_client().status().await };
        match self.members.call_member(index, "reading the status", &status).await {
            Ok(status) => MemberDiagnosis {
                endpoint,
                leads: status.header().is_some_and(|header| header.member_id() == status.leader()),
                may_revoke_early: may_revoke_early(status.version()),
                version: Some(status.version().to_owned()),
                failure: None,
            },
            Err(failed) => MemberDiagnosis {
                endpoint,
                version: None,
                leads: false,
                may_revoke_early: false,
                failure: Some(failed.error.to_string()),
            },
        }
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
    use super::*;

    #[test]
    fn old_servers_are_named() {
        for (version, old) in [("3.4.23", true), ("3.5.10", true), ("3.5.11", false), ("3.6.0-rc.1", false), ("", true)]
        {
            assert_eq!(may_revoke_early(version), old, "{version}");
        }
    }
}
