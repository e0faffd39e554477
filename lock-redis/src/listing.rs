//! Listing locks and their holders.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lock_core::{HeldBy, LockName, Realm, Result};
use redis::Value as Answer;

use crate::error;
use crate::node::Node;
use crate::reply::remaining_from_pttl;
use crate::routed::Routed;
use crate::router::Router;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::store::RedisStore;
use crate::value::LockValue;

/// Limit of keys that one call reads.
const MAX_INSPECT_BATCH: usize = 256;

impl RedisStore {
    /// Up to `limit` held locks after `after`, in the order of names.
    pub(crate) async fn list_after(
        &self,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let mut after = after.cloned();
        loop {
            let names = self.scan_names(after.as_ref(), limit).await?;
            let held = self.holders_of(&names).await?;
            // A page whose locks have all ended meanwhile is not the end of the list.
            if !held.is_empty() || names.is_empty() {
                return Ok(held.into_iter().map(|(name, by)| (name, vec![by])).collect());
            }
            after = names.into_iter().next_back();
        }
    }

    /// The holders of those of these locks that are held, in the order of names.
    pub(crate) async fn holders_of(&self, names: &[LockName]) -> Result<Vec<(LockName, HeldBy)>> {
        let realm = self.tokens.realm();
        let mut by_slot: BTreeMap<u16, Vec<&LockName>> = BTreeMap::new();
        for name in names {
            by_slot.entry(self.keys.lock_slot(name)).or_default().push(name);
        }
        let mut holders = Vec::with_capacity(names.len());
        for (slot, names) in by_slot {
            for names in names.chunks(MAX_INSPECT_BATCH) {
                holders.extend(self.holders_in_slot(slot, names, &realm).await?);
            }
        }
        holders.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(holders)
    }

    /// The same for names of one slot.
    async fn holders_in_slot(&self, slot: u16, names: &[&LockName], realm: &Realm) -> Result<Vec<(LockName, HeldBy)>> {
        let keys: Vec<String> = names.iter().map(|name| self.keys.lock(name)).collect();
        let call = ScriptCall::new(Script::Inspect, &keys, &[]);
        let mut holders = Vec::with_capacity(names.len());
        let (answer, connection) = match self.connections()?.router.run_splittable(slot, call).await? {
            Routed::Done(answer, connection) => (answer, connection),
            Routed::SlotSplit => {
                for name in names.chunks(1) {
                    holders.extend(Box::pin(self.holders_in_slot(slot, name, realm)).await?);
                }
                return Ok(holders);
            }
        };
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Inspect.action());
        let Answer::Array(answers) = answer else { return Err(unexpected()) };
        for (at, name) in names.iter().enumerate() {
            match (answers.get(2 * at), answers.get(2 * at + 1)) {
                (Some(Answer::Nil), Some(_)) => {}
                (Some(Answer::BulkString(value)), Some(Answer::Int(remaining))) => {
                    let by = LockValue::parse(value).into_held_by(realm, remaining_from_pttl(*remaining));
                    holders.push(((*name).clone(), by));
                }
                _ => return Err(unexpected()),
            }
        }
        Ok(holders)
    }

    /// The first `limit` names after `after` that have a key.
    async fn scan_names(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<LockName>> {
        let mut names = BTreeSet::new();
        for node in self.connections()?.router.all().await? {
            let mut cursor = 0_u64;
            loop {
                let (next, keys) = self.scan(&node, cursor, &self.keys.pattern()).await?;
                for key in keys {
                    let Some(name) = self.keys.name(&key).filter(|name| after.is_none_or(|after| name > after)) else {
                        continue;
                    };
                    names.insert(name);
                    if names.len() > limit {
                        names.pop_last();
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    /// One step of `SCAN`: the next cursor, and keys.
    pub(crate) async fn scan(&self, node: &Arc<Node>, cursor: u64, pattern: &str) -> Result<(u64, Vec<Vec<u8>>)> {
        const ACTION: &str = "listing locks";
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
        let answer = Router::command(node, ACTION, &scan).await?;
        redis::from_redis_value(answer).map_err(|_| error::unexpected_reply(node.name(), ACTION))
    }
}
