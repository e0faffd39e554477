//! [`HolderRecord`]: the holder of a lock as JSON.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::contract::Claim;
use crate::words::{Holder, HolderInfo};

/// The holder of a lock as JSON, for a server that keeps a value with each entry of its queue. It
/// decides nothing but what people see, and what a revocation leaves.
///
/// `Extra` are the store's own fields; they stand before `revoked`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HolderRecord<Extra> {
    /// The holder.
    pub holder: Holder,
    /// Its description.
    #[serde(flatten)]
    pub info: HolderInfo,
    /// The time of the grant by the holder's wall clock, in seconds since 1970, for people; `None`
    /// where the record was written before the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
    /// The fields of the store.
    #[serde(flatten)]
    pub extra: Extra,
    /// Written by an operator's revocation: nobody holds the lock, and the entry blocks it for a
    /// while.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revoked: bool,
}

impl<Extra> HolderRecord<Extra> {
    /// The record of a claim.
    pub fn of(claim: &Claim, since: Option<u64>, extra: Extra) -> HolderRecord<Extra> {
        HolderRecord { holder: claim.holder(), info: claim.info().clone(), since, extra, revoked: false }
    }

    /// The record that blocks a lock after a revocation. `blocker` is a holder that no claim has;
    /// people see the description of the evicted one.
    pub fn blocker(blocker: Holder, evicted: Option<&HolderRecord<Extra>>, extra: Extra) -> HolderRecord<Extra> {
        let info = evicted.map(|record| record.info.clone()).unwrap_or_default();
        HolderRecord { holder: blocker, info, since: None, extra, revoked: true }
    }

    /// The time since the grant, by the wall clocks of both sides.
    pub fn held_for(&self) -> Option<Duration> {
        Some(Duration::from_secs(unix_seconds()?.saturating_sub(self.since?)))
    }
}

impl<Extra: Serialize + DeserializeOwned> HolderRecord<Extra> {
    /// The record as JSON.
    ///
    /// # Panics
    ///
    /// If `Extra` has no form in JSON, as a map has whose keys are no texts.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("BUG: text and numbers are JSON")
    }

    /// The record in this value; `None` if another program wrote it.
    pub fn decode(value: &[u8]) -> Option<HolderRecord<Extra>> {
        serde_json::from_slice(value).ok()
    }
}

/// The wall clock, in seconds since 1970.
pub fn unix_seconds() -> Option<u64> {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Room {
        room: u64,
    }

    fn record(text: &str, since: Option<u64>, revoked: bool) -> HolderRecord<Room> {
        let info = HolderInfo::new("h", 7, text);
        HolderRecord { holder: Holder::from_u128(0xab), info, since, extra: Room { room: 3 }, revoked }
    }

    #[test]
    fn the_fields_stand_in_one_order_and_those_without_a_value_are_left_out() {
        let holder = format!("{:032x}", 0xab);
        for (record, json) in [
            (record("", None, false), format!(r#"{{"holder":"{holder}","host":"h","pid":7,"room":3}}"#)),
            (
                record("t", Some(9), true),
                format!(r#"{{"holder":"{holder}","host":"h","pid":7,"text":"t","since":9,"room":3,"revoked":true}}"#),
            ),
        ] {
            assert_eq!(String::from_utf8(record.encode()).unwrap(), json);
            let read = HolderRecord::<Room>::decode(json.as_bytes()).unwrap();
            assert_eq!(read.encode(), record.encode());
        }
    }

    #[test]
    fn a_value_of_another_program_is_no_record() {
        for value in ["", "10.0.0.1", "{}", r#"{"holder":"x","host":"h","pid":7,"room":3}"#] {
            assert!(HolderRecord::<Room>::decode(value.as_bytes()).is_none(), "{value}");
        }
        let without_extra = format!(r#"{{"holder":"{:032x}","host":"h","pid":7}}"#, 0xab);
        assert!(HolderRecord::<Room>::decode(without_extra.as_bytes()).is_none());
    }
}
