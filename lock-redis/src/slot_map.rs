//! [`SlotMap`]: the owners of a cluster's slots.

use std::sync::Arc;

use lock_core::{Error, Result};
use redis::Value;

use crate::error::{self, CallError};
use crate::keys::SLOT_COUNT;
use crate::node::Node;

/// The owners of the slots, as one cluster node knows them.
#[derive(Debug)]
pub(crate) struct SlotMap {
    /// First slot, last slot, and the host and port of the master.
    pub(crate) ranges: Vec<(u16, u16, String, u16)>,
    /// The node's `cluster_current_epoch`, the newest configuration that it has seen; 0 if this
    /// user may not ask.
    epoch: u64,
}

impl SlotMap {
    /// True if every slot has an owner.
    pub(crate) fn is_complete(&self) -> bool {
        self.slot_count() == SLOT_COUNT
    }

    /// Number of slots that have an owner.
    fn slot_count(&self) -> u16 {
        self.ranges.iter().map(|(first, last, ..)| last.saturating_sub(*first) + 1).fold(0, u16::saturating_add)
    }

    /// True if this map is to be preferred. A node that was removed from the cluster knows fewer
    /// slots, or has an older epoch.
    pub(crate) fn is_newer_than(&self, other: &SlotMap) -> bool {
        (self.slot_count(), self.epoch) > (other.slot_count(), other.epoch)
    }

    /// Asks a node for its map.
    ///
    /// # Errors
    ///
    /// As for a call; invalid configuration if the server is no cluster node.
    pub(crate) async fn query(node: &Arc<Node>) -> Result<SlotMap> {
        const ACTION: &str = "asking who has which slot";
        let mut queries = redis::pipe();
        queries.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
        let answers = node.commands(ACTION, &queries).await.map_err(|failure| node.error(ACTION, failure))?;
        let mut answers = answers.into_iter();
        let slots = answers.next().unwrap_or(Value::Nil).extract_error();
        let slots = slots.map_err(|failure| match error::is_cluster_disabled(&failure) {
            true => {
                let text = format!("{} is no member of a cluster: give it as redis://", node.name());
                Error::invalid_config(text)
            }
            false => node.error(ACTION, CallError::Redis(failure)),
        })?;
        let ranges = parse_ranges(slots).ok_or_else(|| error::unexpected_reply(node.name(), ACTION))?;
        Ok(SlotMap { ranges, epoch: answers.next().and_then(parse_epoch).unwrap_or(0) })
    }
}

/// The epoch in a reply to `CLUSTER INFO`.
fn parse_epoch(reply: Value) -> Option<u64> {
    let info: String = redis::from_redis_value(reply).ok()?;
    info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"))?.trim().parse().ok()
}

/// The ranges in a reply to `CLUSTER SLOTS`.
fn parse_ranges(reply: Value) -> Option<Vec<(u16, u16, String, u16)>> {
    let Value::Array(rows) = reply else { return None };
    let row = |row: Value| {
        let Value::Array(row) = row else { return None };
        let [first, last, Value::Array(master), ..] = &row[..] else { return None };
        let number = |value: &Value| match value {
            Value::Int(number) => u16::try_from(*number).ok(),
            _ => None,
        };
        let host = match master.first()? {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        Some((number(first)?, number(last)?, host, number(master.get(1)?)?))
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ends: &[(u16, u16)], epoch: u64) -> SlotMap {
        SlotMap { ranges: ends.iter().map(|(first, last)| (*first, *last, "h".to_owned(), 1)).collect(), epoch }
    }

    #[test]
    fn who_knows_of_more_slots_is_believed_and_of_those_who_is_not_behind() {
        let whole = map(&[(0, 5_000), (5_001, SLOT_COUNT - 1)], 7);
        assert_eq!(whole.slot_count(), SLOT_COUNT);
        for worse in [map(&[], 9), map(&[(0, SLOT_COUNT - 2)], 9), map(&[(0, SLOT_COUNT - 1)], 6)] {
            assert!(whole.is_newer_than(&worse) && !worse.is_newer_than(&whole), "{worse:?}");
        }
    }
}
