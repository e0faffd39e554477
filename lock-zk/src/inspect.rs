//! Reads of holders: the one of a lock, and the list of all.

use futures_util::future::join_all;
use lock_core::{FencingToken, HeldBy, LockName, Result};
use zookeeper_client::{Client, Error as ZkError};

use crate::error::{CallError, classify};
use crate::head::{Head, find_head};
use crate::record::HolderRecord;
use crate::store::ZkStore;

/// The most locks that are read at once for a list.
const MAX_CONCURRENT_READS: usize = 64;

impl ZkStore {
    /// Makes a call on the read session, on which no lease depends; on a new one if that has ended.
    pub(crate) async fn read<T, F>(&self, call: impl Fn(Client) -> F + Clone + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        match self.opener.reader().await?.call(call.clone()).await {
            Err(failed) if failed.session_is_gone => {
                self.opener.forget_reader();
                Ok(self.opener.reader().await?.call(call).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// The fencing token of a node that was made by this transaction.
    pub(crate) fn token(&self, czxid: i64) -> FencingToken {
        FencingToken::new(self.opener.realm_node().realm(), czxid.unsigned_abs())
    }

    /// The description of a holder by its node.
    pub(crate) fn held_by(&self, head: &Head) -> HeldBy {
        let mut by = HeldBy::default();
        by.holder = head.holder();
        by.token = Some(self.token(head.stat.czxid));
        match HolderRecord::decode(&head.data) {
            Some(record) => {
                by.held_for = record.held_for();
                by.revoked = record.revoked;
                by.info = Some(record.info);
            }
            None => by.info = Some(head.foreign_info()),
        }
        if by.revoked {
            by.token = None;
        }
        by
    }

    /// The description of the first in a queue; an empty one if its node has just gone.
    pub(crate) fn held_by_head(&self, head: Option<Head>) -> HeldBy {
        head.map(|head| self.held_by(&head)).unwrap_or_default()
    }

    /// Reads the head of a lock's queue.
    pub(crate) async fn head(&self, name: &LockName) -> Result<Option<Head>> {
        let lock_path = self.layout.lock_path(name);
        self.read(move |client| {
            let lock_path = lock_path.clone();
            async move { find_head(&client, &lock_path).await }
        })
        .await
    }

    /// Reads the holder of a lock.
    pub(crate) async fn read_holder(&self, name: &LockName) -> Result<Option<HeldBy>> {
        Ok(self.head(name).await?.map(|head| self.held_by(&head)))
    }

    /// Lists held locks in the order of their names, from after this one on.
    pub(crate) async fn list_held(
        &self,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let mut names = self.list_names().await?;
        names.retain(|name| after.is_none_or(|after| name > after));
        names.sort_unstable();
        let mut listed = Vec::new();
        for chunk in names.chunks(MAX_CONCURRENT_READS) {
            let held = join_all(chunk.iter().map(|name| self.read_holder(name))).await;
            for (name, by) in chunk.iter().zip(held) {
                if let Some(by) = by?.filter(|_| listed.len() < limit) {
                    listed.push((name.clone(), vec![by]));
                }
            }
            if listed.len() == limit {
                break;
            }
        }
        Ok(listed)
    }

    /// The names of all locks that have a node, held or not.
    async fn list_names(&self) -> Result<Vec<LockName>> {
        let base = self.layout.base().to_owned();
        let list = move |client: Client| {
            let base = base.clone();
            async move {
                let to_call_error = |failure| classify("listing", failure, false);
                client.sync(&base).await.map_err(to_call_error)?;
                match client.list_children(&base).await {
                    Err(ZkError::NoNode) => Ok(Vec::new()),
                    nodes => nodes.map_err(to_call_error),
                }
            }
        };
        let nodes = self.read(list).await?;
        Ok(nodes.iter().filter_map(|node| self.layout.name_of(node)).collect())
    }
}
