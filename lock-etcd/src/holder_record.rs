//! [`Value`]: what a key of ours says of its holder.

use std::time::{Duration, SystemTime};

use lock_core::{Claim, Holder, HolderInfo};
use serde::{Deserialize, Serialize};

/// What a key of ours says of its holder, as JSON. Etcd's own recipe leaves the value empty; nothing is decided by it
/// but what people see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HolderRecord {
    pub(crate) holder: Holder,
    #[serde(flatten)]
    pub(crate) info: HolderInfo,
    /// When it was granted, by the holder's wall clock, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// It was written by one who waited: the lock was granted later, at a revision that the key does not show.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) queued: bool,
    /// An operator revoked it: nobody holds the lock, and the key blocks it while its lease lasts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
}

impl HolderRecord {
    /// Of a claim, as it is when it is granted at once, or as it is when it has to queue.
    pub(crate) fn encode_claim(claim: &Claim, queued: bool) -> Vec<u8> {
        let since = (!queued).then(now).flatten();
        let info = claim.info().clone();
        HolderRecord { holder: claim.holder(), info, since, queued, revoked: false }.encode()
    }

    /// What blocks a lock after the revocation of this one; of a holder that nobody is.
    pub(crate) fn encode_revoked(evicted: Option<&HolderRecord>) -> Vec<u8> {
        let info = evicted.map(|value| value.info.clone()).unwrap_or_default();
        HolderRecord { holder: Holder::fresh(), info, since: None, queued: false, revoked: true }.encode()
    }

    /// What a key says; `None` if another program wrote it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<HolderRecord> {
        serde_json::from_slice(bytes).ok()
    }

    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: text and numbers are JSON")
    }

    pub(crate) fn held_for(&self) -> Option<Duration> {
        Some(Duration::from_secs(now()?.saturating_sub(self.since?)))
    }
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}
