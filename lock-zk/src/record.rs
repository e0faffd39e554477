//! [`HolderRecord`]: the record of a holder in its node.

use std::time::Duration;

use lock_core::{Claim, Holder, kit};
use serde::{Deserialize, Serialize};

/// The record of a holder in its node. Curator writes the address of its host instead. Only what
/// people see, and how long a revoked lock stays blocked, depend on it.
pub(crate) type HolderRecord = kit::HolderRecord<Extra>;

/// The fields of this store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Extra {
    /// The TTL of its session, in milliseconds.
    ttl: u64,
}

/// The text that Curator's `Revoker` writes into a node to ask its holder for the lock.
const CURATOR_REVOKE: &[u8] = b"__REVOKE__";

impl Extra {
    /// The TTL of the session.
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl)
    }
}

/// Encodes the record of a claim. `since` is the time of its grant, which a claim that queues does
/// not know yet.
pub(crate) fn encode_claim(claim: &Claim, ttl: Duration, since: Option<u64>) -> Vec<u8> {
    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    HolderRecord::of(claim, since, Extra { ttl }).encode()
}

/// Encodes the record of a node that blocks a lock after a revocation. Nobody is that holder.
pub(crate) fn encode_blocker(blocker: Holder, evicted: Option<&HolderRecord>) -> Vec<u8> {
    HolderRecord::blocker(blocker, evicted, Extra { ttl: 0 }).encode()
}

/// Returns `true` if this is Curator's text by which another program asks for the lock.
pub(crate) fn is_revocation_request(bytes: &[u8]) -> bool {
    bytes == CURATOR_REVOKE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_written_as_programs_of_other_versions_read_them() {
        let holder = "000000000000000000000000000000ab";
        for (revoked, json) in [
            (false, format!(r#"{{"holder":"{holder}","host":"h","pid":7,"since":9,"ttl":4000}}"#)),
            (true, format!(r#"{{"holder":"{holder}","host":"h","pid":7,"ttl":4000,"revoked":true}}"#)),
        ] {
            let record = HolderRecord::decode(json.as_bytes()).unwrap();
            assert_eq!((record.extra.ttl(), record.revoked), (Duration::from_secs(4), revoked));
            assert_eq!(String::from_utf8(record.encode()).unwrap(), json);
        }
        assert!(HolderRecord::decode(b"10.0.0.1").is_none());
    }
}
