//! [`HolderRecord`]: the record of a holder in its node.

use std::time::{Duration, SystemTime};

use lock_core::{Claim, Holder, HolderInfo};
use serde::{Deserialize, Serialize};

/// The record of a holder in its node, as JSON. Curator writes the address of its host instead.
/// Only what people see, and how long a revoked lock stays blocked, depend on it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HolderRecord {
    pub(crate) holder: Holder,
    #[serde(flatten)]
    pub(crate) info: HolderInfo,
    /// The time of the grant by the holder's wall clock, in seconds, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// The TTL of its session, in milliseconds.
    ttl: u64,
    /// Set by an operator's revocation: nobody holds the lock, and the node blocks it while its
    /// session lasts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
}

/// The text that Curator's `Revoker` writes into a node to ask its holder for the lock.
const CURATOR_REVOKE: &[u8] = b"__REVOKE__";

impl HolderRecord {
    /// Encodes the record of a claim. `since` is the time of its grant, which a claim that queues
    /// does not know yet.
    pub(crate) fn encode(claim: &Claim, ttl: Duration, since: Option<u64>) -> Vec<u8> {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        HolderRecord { holder: claim.holder(), info: claim.info().clone(), since, ttl, revoked: false }.to_json()
    }

    /// Encodes the record of a node that blocks a lock after a revocation. Nobody is that holder.
    pub(crate) fn encode_blocker(blocker: Holder, evicted: Option<&HolderRecord>) -> Vec<u8> {
        let info = evicted.map(|record| record.info.clone()).unwrap_or_default();
        HolderRecord { holder: blocker, info, since: None, ttl: 0, revoked: true }.to_json()
    }

    /// Decodes the content of a node; `None` if another program wrote it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<HolderRecord> {
        serde_json::from_slice(bytes).ok()
    }

    /// Returns `true` if this is Curator's text by which another program asks for the lock.
    pub(crate) fn is_revocation_request(bytes: &[u8]) -> bool {
        bytes == CURATOR_REVOKE
    }

    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: text and numbers are JSON")
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl)
    }

    /// The time since the grant, by the wall clocks of both sides.
    pub(crate) fn held_for(&self) -> Option<Duration> {
        Some(Duration::from_secs(unix_seconds()?.saturating_sub(self.since?)))
    }
}

/// The wall clock, in seconds.
pub(crate) fn unix_seconds() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}
