//! [`Diagnosis`]: what an operator should know of a cluster.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client};
use lock_core::Result;

use crate::EtcdStore;
use crate::call::CallKind;
use crate::session_pool::grant;

/// What an operator should know of a cluster.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Diagnosis {
    /// The endpoints that this store uses.
    pub members: Vec<MemberDiagnosis>,
    /// How many members vote.
    pub voters: usize,
    /// How many of them must answer.
    pub quorum: usize,
    /// The alarms that are raised, such as a full disk.
    pub alarms: Vec<String>,
    /// The shortest TTL that the cluster grants: shorter ones are raised to it.
    pub shortest_ttl: Duration,
}

/// What an operator should know of one endpoint.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MemberDiagnosis {
    /// Its URL.
    pub endpoint: String,
    /// Its version; `None` if it does not answer.
    pub version: Option<String>,
    /// Whether it leads.
    pub leads: bool,
    /// Whether a server of this version may end a lease early after its leader was paused, although it was renewed: only
    /// a fence helps there.
    pub may_revoke_early: bool,
    /// Why it does not answer.
    pub failure: Option<String>,
}

impl EtcdStore {
    /// Asks every endpoint how it is.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](lock_core::LockStore::inspect), if the cluster as a whole does not answer.
    ///
    /// # Cancel safety
    ///
    /// It leaves at most an etcd lease that ends by itself.
    pub async fn diagnose(&self) -> Result<Diagnosis> {
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
        let (lease, shortest_ttl) = grant(&self.members, Duration::from_secs(1)).await?;
        self.revoke(lease).await;
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
            Err(judged) => MemberDiagnosis {
                endpoint,
                version: None,
                leads: false,
                may_revoke_early: false,
                failure: Some(judged.error.to_string()),
            },
        }
    }
}

/// The servers without the fix of etcd#16822, which is in 3.5.11 and in 3.6; a version that is no version counts as one of them.
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
