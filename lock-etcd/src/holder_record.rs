//! [`HolderRecord`]: the holder in the value of a key.

use std::time::{Duration, SystemTime};

use lock_core::{Claim, FencingToken, HeldBy, Holder, HolderInfo, Realm};
use serde::{Deserialize, Serialize};

use crate::lock_key::LockKey;

/// The holder in the value of a key, as JSON. Etcd's own recipe leaves the value empty; it decides
/// nothing but what people see.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct HolderRecord {
    pub(crate) holder: Holder,
    #[serde(flatten)]
    pub(crate) info: HolderInfo,
    /// The time of the grant by the holder's wall clock, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    /// Written by a waiter: the lock was granted later, at a revision that the key does not show.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) queued: bool,
    /// Revoked by an operator: the lock has no holder, and the key blocks it while its lease lasts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) revoked: bool,
}

impl HolderRecord {
    /// Encodes a claim that is granted at once, or one that is queued.
    pub(crate) fn encode_claim(claim: &Claim, queued: bool) -> Vec<u8> {
        let since = (!queued).then(now).flatten();
        let info = claim.info().clone();
        HolderRecord { holder: claim.holder(), info, since, queued, revoked: false }.encode()
    }

    /// Encodes the record that blocks a lock after a revocation. Its holder is a fresh one, which
    /// no claim has.
    pub(crate) fn encode_revoked(evicted: Option<&HolderRecord>) -> Vec<u8> {
        let info = evicted.map(|value| value.info.clone()).unwrap_or_default();
        HolderRecord { holder: Holder::fresh(), info, since: None, queued: false, revoked: true }.encode()
    }

    /// Decodes a value; `None` if another program wrote it.
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

/// The holder of a lock whose queue has this head.
pub(crate) fn held_by(head: &LockKey, realm: &Realm) -> HeldBy {
    let Some(record) = HolderRecord::decode(&head.value) else {
        let mut by = HeldBy::default();
        by.info = Some(foreign_holder(head));
        return by;
    };
    let mut by = HeldBy::holder(record.holder);
    by.held_for = record.held_for();
    by.revoked = record.revoked;
    // A holder that had to queue was granted the lock at a revision that its key does not show.
    let is_token_known = !record.queued && !record.revoked;
    by.token = is_token_known.then(|| FencingToken::new(realm.clone(), head.create_revision.unsigned_abs()));
    by.info = Some(record.info);
    by
}

/// The text for a holder that is another program.
fn foreign_holder(head: &LockKey) -> HolderInfo {
    let key = String::from_utf8_lossy(&head.key);
    HolderInfo::new("", 0, &format!("another program, key {key}, revision {}", head.create_revision))
}

fn now() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}
