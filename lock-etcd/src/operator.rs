//! The operations of operators: inspecting, listing and breaking locks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnResponse};
use lock_core::{BreakMode, Error, Eviction, FencingToken, HeldBy, LockName, Result};

use crate::backend::Backend;
use crate::call::CallKind;
use crate::holder_record::{HolderRecord, encode_revoked};
use crate::lease_grant::grant;
use crate::lock_key::LockKey;

/// Maximum number of keys in one page of a list.
const MAX_KEYS_PER_PAGE: i64 = 1_000;

impl Backend {
    /// The head of the queue.
    pub(crate) async fn read_head(&self, name: &LockName) -> Result<Option<LockKey>> {
        let range = self.layout.range(name);
        let read = |client: Arc<Client>| {
            let range = range.clone();
            let first = GetOptions::new().with_prefix().with_sort(SortTarget::Create, SortOrder::Ascend).with_limit(1);
            async move { client.kv_client().get(range, Some(first)).await }
        };
        let reply = self.members.call(CallKind::Request, "inspecting", read).await?.value;
        Ok(reply.kvs().first().map(LockKey::of))
    }

    /// The remaining time of an etcd lease; `None` if there is none. Etcd gives whole seconds,
    /// rounded down, so that the true time is up to a second longer.
    async fn read_remaining(&self, lease_id: i64) -> Result<Option<Duration>> {
        let read = |client: Arc<Client>| async move { client.lease_client().time_to_live(lease_id, None).await };
        let reply = self.members.call(CallKind::Request, "reading how long a lease lasts", read).await?.value;
        let at_most = |ttl: i64, granted: i64| Duration::from_secs(ttl.saturating_add(1).min(granted).unsigned_abs());
        Ok((reply.ttl() >= 0).then(|| at_most(reply.ttl(), reply.granted_ttl())))
    }

    /// The holder of the lock whose queue has this head; `None` if its lease has just ended.
    async fn read_holder_of(&self, head: &LockKey) -> Result<Option<HeldBy>> {
        let mut by = self.held_by(head);
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

    pub(crate) async fn list_held(
        &self,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let mut held = Vec::new();
        for name in self.list_names().await?.into_iter().filter(|name| after.is_none_or(|after| name > after)) {
            if held.len() == limit {
                break;
            }
            if let Some(by) = self.read_holder(&name).await? {
                held.push((name, vec![by]));
            }
        }
        Ok(held)
    }

    /// The names of all queues, sorted: etcd's own order is that of the encoded keys.
    async fn list_names(&self) -> Result<BTreeSet<LockName>> {
        let mut names = BTreeSet::new();
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
            names.extend(page.kvs().iter().filter_map(|kv| self.layout.name_of(kv.key(), kv.lease())));
            match page.kvs().last().filter(|_| page.more()) {
                Some(last) => from = [last.key(), &[0]].concat(),
                None => return Ok(names),
            }
        }
    }

    /// Evicts the holder that was `seen`.
    pub(crate) async fn evict(&self, name: &LockName, seen: &HeldBy, mode: BreakMode) -> Result<Option<Eviction>> {
        let Some(head) = self.read_head(name).await? else { return Ok(None) };
        let Some(evicted) = self.read_holder_of(&head).await? else { return Ok(None) };
        if evicted.holder != seen.holder || (seen.holder.is_none() && evicted.info != seen.info) {
            return Ok(None);
        }
        let blocked = evicted.remaining.unwrap_or(Duration::ZERO).max(Duration::from_secs(1));
        let (lease_id, ttl) = grant(&self.members, blocked).await?;
        let Some(moved) = self.move_to_lease(name, &head, lease_id).await? else {
            self.revoke(lease_id).await;
            return Ok(None);
        };
        let revision = moved.header().map(|header| header.revision().unsigned_abs());
        let token = revision.map(|revision| FencingToken::new(self.realm(), revision));
        if mode == BreakMode::Revoke {
            return Ok(Some(Eviction::new(evicted, token, ttl)));
        }
        let is_ours = Compare::lease(head.key.clone(), CompareOp::Equal, lease_id);
        let delete = Txn::new().when([is_ours]).and_then([TxnOp::delete(head.key, None)]);
        self.transact(CallKind::Request, "breaking a lock", delete).await?;
        self.revoke(lease_id).await;
        Ok(Some(Eviction::new(evicted, token, Duration::ZERO)))
    }

    /// Rewrites the holder's key onto another lease, in one step; `None` if the key has changed.
    ///
    /// The key keeps its create revision and so its place at the head, also for other programs, but
    /// it is no longer the holder's.
    async fn move_to_lease(&self, name: &LockName, head: &LockKey, lease_id: i64) -> Result<Option<TxnResponse>> {
        let value = encode_revoked(HolderRecord::decode(&head.value).as_ref());
        let unchanged = [
            Compare::create_revision(head.key.clone(), CompareOp::Equal, head.create_revision),
            Compare::mod_revision(head.key.clone(), CompareOp::Equal, head.mod_revision),
        ];
        let rewrite = TxnOp::put(head.key.clone(), value, Some(PutOptions::new().with_lease(lease_id)));
        let txn = Txn::new().when(unchanged).and_then([rewrite]);
        let reply = self.transact(CallKind::Request, "breaking a lock", txn).await?;
        if reply.value.succeeded() {
            return Ok(Some(reply.value));
        }
        // The key has changed, maybe by this very call before its reply was lost: only a new
        // inspection shows it.
        if reply.in_doubt {
            let text = format!("an answer to the breaking of \"{name}\" was lost; inspect it again");
            return Err(Error::unexpected_reply(text));
        }
        Ok(None)
    }
}

/// The end of the range of all keys with this prefix.
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
