//! [`HolderRecord`]: the holder in the value of a key.

use lock_core::kit::{self, unix_seconds};
use lock_core::{Claim, FencingToken, HeldBy, Holder, HolderInfo, Realm};
use serde::{Deserialize, Serialize};

use crate::lock_key::LockKey;

/// The holder in the value of a key. Etcd's own recipe leaves the value empty.
pub(crate) type HolderRecord = kit::HolderRecord<Extra>;

/// The fields of this store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Extra {
    /// Written by a waiter: the lock was granted later, at a revision that the key does not show.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    queued: bool,
}

/// Encodes a claim that is granted at once, or one that is queued.
pub(crate) fn encode_claim(claim: &Claim, queued: bool) -> Vec<u8> {
    let since = (!queued).then(unix_seconds).flatten();
    HolderRecord::of(claim, since, Extra { queued }).encode()
}

/// Encodes the record that blocks a lock after a revocation, while the lease of its key lasts.
pub(crate) fn encode_revoked(evicted: Option<&HolderRecord>) -> Vec<u8> {
    HolderRecord::blocker(Holder::fresh(), evicted, Extra { queued: false }).encode()
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
    let is_token_known = !record.extra.queued && !record.revoked;
    by.token = is_token_known.then(|| FencingToken::new(realm.clone(), head.create_revision.unsigned_abs()));
    by.info = Some(record.info);
    by
}

/// The text for a holder that is another program.
fn foreign_holder(head: &LockKey) -> HolderInfo {
    let key = String::from_utf8_lossy(&head.key);
    HolderInfo::new("", 0, &format!("another program, key {key}, revision {}", head.create_revision))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_as_programs_of_other_versions_read_them() {
        let holder = "000000000000000000000000000000ab";
        for (queued, revoked, json) in [
            (false, false, format!(r#"{{"holder":"{holder}","host":"h","pid":7,"since":9}}"#)),
            (
                true,
                true,
                format!(r#"{{"holder":"{holder}","host":"h","pid":7,"since":9,"queued":true,"revoked":true}}"#),
            ),
        ] {
            let record = HolderRecord::decode(json.as_bytes()).unwrap();
            assert_eq!((record.extra.queued, record.revoked), (queued, revoked));
            assert_eq!(String::from_utf8(record.encode()).unwrap(), json);
        }
        assert!(HolderRecord::decode(b"").is_none());
    }
}
