//! What operators see and may break.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp};
use lock_core::{BreakMode, Eviction, FencingToken, HeldBy, HolderInfo, LockName, LockStore, Result};

use crate::EtcdStore;
use crate::call::CallKind;
use crate::holder_record::HolderRecord;
use crate::session_pool::grant;
use crate::transactions::LockKey;

/// How many keys one reading of a list takes.
const MAX_KEYS_PER_PAGE: i64 = 1_000;

/// What people see of a holder that is another program.
pub(crate) fn foreign_holder(head: &LockKey) -> HolderInfo {
    let text =
        format!("another program, key {}, revision {}", String::from_utf8_lossy(&head.key), head.create_revision);
    HolderInfo::new("", 0, &text)
}

impl EtcdStore {
    /// The first in line.
    pub(crate) async fn read_head(&self, name: &LockName) -> Result<Option<LockKey>> {
        let range = self.layout.range(name);
        let read = |client: Arc<Client>| {
            let range = range.clone();
            let first = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(1);
            async move { client.kv_client().get(range, Some(first)).await }
        };
        Ok(self.members.call(CallKind::Request, "inspecting", read).await?.value.kvs().first().map(LockKey::of))
    }

    /// How long an etcd lease lasts if it is not renewed; `None` if there is none. Etcd gives whole seconds, rounded
    /// down: the real time is up to a second longer.
    async fn read_remaining(&self, lease: i64) -> Result<Option<Duration>> {
        let read = |client: Arc<Client>| async move { client.lease_client().time_to_live(lease, None).await };
        let left = self.members.call(CallKind::Request, "reading how long a lease lasts", read).await?.value;
        let at_most = |left: i64, granted: i64| Duration::from_secs(left.saturating_add(1).min(granted).unsigned_abs());
        Ok((left.ttl() >= 0).then(|| at_most(left.ttl(), left.granted_ttl())))
    }

    /// Who holds the lock with this key; `None` if its lease has just ended.
    async fn read_holder_of(&self, head: &LockKey) -> Result<Option<HeldBy>> {
        let mut by = self.describe_holder(head);
        if head.lease_id != 0 {
            let Some(remaining) = self.read_remaining(head.lease_id).await? else { return Ok(None) };
            by.remaining = Some(remaining);
        }
        Ok(Some(by))
    }

    pub(crate) async fn read_holder(&self, name: &LockName) -> Result<Option<HeldBy>> {
        match self.read_head(name).await? {
            Some(head) => self.read_holder_of(&head).await,
            None => Ok(None),
        }
    }

    pub(crate) async fn list_held(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let mut listed = Vec::new();
        for name in self.list_names().await?.into_iter().filter(|name| after.is_none_or(|after| name > after)) {
            if listed.len() == limit {
                break;
            }
            if let Some(by) = self.read_holder(&name).await? {
                listed.push((name, by));
            }
        }
        Ok(listed)
    }

    /// The names of all lines. Etcd has them in the order of their keys, which is not that of the names.
    async fn list_names(&self) -> Result<BTreeSet<LockName>> {
        let mut lines = BTreeSet::new();
        let mut from = self.layout.prefix().as_bytes().to_vec();
        let end = range_end(&from);
        if from.is_empty() {
            from.push(0);
        }
        loop {
            let read = |client: Arc<Client>| {
                let (from, end) = (from.clone(), end.clone());
                let page = GetOptions::new().with_range(end).with_keys_only().with_limit(MAX_KEYS_PER_PAGE);
                async move { client.kv_client().get(from, Some(page)).await }
            };
            let page = self.members.call(CallKind::Request, "listing", read).await?.value;
            for kv in page.kvs() {
                if let Some(name) = self.layout.name_of(kv.key(), kv.lease()) {
                    lines.insert(name);
                }
            }
            match page.kvs().last().filter(|_| page.more()) {
                Some(last) => from = [last.key(), &[0]].concat(),
                None => return Ok(lines),
            }
        }
    }

    /// Evicts the holder that was seen. Its key is rewritten onto another lease, in one step: it keeps its create
    /// revision and so its place at the head, also for other programs, and is the holder's no more.
    pub(crate) async fn evict(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(head) = self.read_head(name).await? else { return Ok(None) };
        let Some(evicted) = self.read_holder_of(&head).await? else { return Ok(None) };
        if evicted.holder != seen.holder || (seen.holder.is_none() && evicted.info != seen.info) {
            return Ok(None);
        }
        let blocked = evicted.remaining.unwrap_or(Duration::ZERO).max(Duration::from_secs(1));
        let (lease, ttl) = grant(&self.members, blocked).await?;
        let value = HolderRecord::encode_revoked(HolderRecord::decode(&head.value).as_ref());
        let unchanged = [
            Compare::create_revision(head.key.clone(), CompareOp::Equal, head.create_revision),
            Compare::mod_revision(head.key.clone(), CompareOp::Equal, head.mod_revision),
        ];
        let rewrite = TxnOp::put(head.key.clone(), value, Some(PutOptions::new().with_lease(lease)));
        let rewritten =
            self.transact(CallKind::Request, "breaking a lock", Txn::new().when(unchanged).and_then([rewrite])).await;
        let rewritten = match rewritten {
            Ok(called) if called.value.succeeded() => called.value,
            // Changed meanwhile, or by this very call before its answer was lost: then it is looked at again.
            Ok(called) if called.in_doubt => {
                return Err(crate::error::unexpected_reply(format!(
                    "an answer to the breaking of \"{name}\" was lost; inspect it again"
                )));
            }
            Ok(_) => {
                self.revoke(lease).await;
                return Ok(None);
            }
            Err(failed) => return Err(failed.error),
        };
        let used = rewritten.header().map(|header| header.revision().unsigned_abs());
        let token = used.map(|used| FencingToken::new(self.realm(), used));
        if how == BreakMode::Revoke {
            return Ok(Some(Eviction::new(evicted, token, ttl)));
        }
        let ours = Compare::lease(head.key.clone(), CompareOp::Equal, lease);
        let delete = TxnOp::delete(head.key.clone(), None);
        self.transact(CallKind::Request, "breaking a lock", Txn::new().when([ours]).and_then([delete])).await?;
        self.revoke(lease).await;
        Ok(Some(Eviction::new(evicted, token, Duration::ZERO)))
    }
}

/// The end of the range of all keys that begin so.
fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_prefix() {
        assert_eq!(range_end(b"app/"), b"app0");
        assert_eq!(range_end(b"a\xff"), b"b");
        assert_eq!(range_end(b""), b"\0", "a zero byte stands for the end of all keys");
    }
}
