//! [`HolderRecord`]: what a node of ours says of its holder.

use std::time::{Duration, SystemTime};

use lock_core::{Claim, Holder, HolderInfo};
use serde::{Deserialize, Serialize};

/// What a node of ours says of its holder, as JSON. Curator writes the address of its host instead; nothing is decided by
/// it but what people see, and how long a revoked lock stays blocked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HolderRecord {
    pub(crate) holder: Holder,
    #[serde(flatten)]
    pub(crate) info: HolderInfo,
    /// When it was granted, by the holder's wall clock, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// How long its session lasts without a heartbeat, in milliseconds.
    ttl: u64,
    /// An operator revoked it: nobody holds the lock, and the node blocks it while its session lasts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
}

/// What Curator's `Revoker` writes into a node whose holder it asks to give the lock back.
const CURATOR_REVOKE: &[u8] = b"__REVOKE__";

impl HolderRecord {
    /// Of a claim that was granted then; who comes to wait does not know it yet.
    pub(crate) fn encode(claim: &Claim, ttl: Duration, since: Option<u64>) -> Vec<u8> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        HolderRecord { holder: claim.holder(), info: claim.info().clone(), since, ttl, revoked: false }.to_json()
    }

    /// What blocks a lock after the revocation of this one; of a holder that nobody is.
    pub(crate) fn encode_blocker(blocker: Holder, evicted: Option<&HolderRecord>) -> Vec<u8> {
        let info = evicted.map(|value| value.info.clone()).unwrap_or_default();
        HolderRecord { holder: blocker, info, since: None, ttl: 0, revoked: true }.to_json()
    }

    /// What a node says; `None` if another program wrote it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<HolderRecord> {
        serde_json::from_slice(bytes).ok()
    }

    /// Whether another program asks, through Curator, that the lock be given back.
    pub(crate) fn is_revocation_request(bytes: &[u8]) -> bool {
        bytes == CURATOR_REVOKE
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: text and numbers are JSON")
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl)
    }

    pub(crate) fn held_for(&self) -> Option<Duration> {
        Some(Duration::from_secs(unix_seconds()?.saturating_sub(self.since?)))
    }
}

/// The wall clock, in seconds.
pub(crate) fn unix_seconds() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}
