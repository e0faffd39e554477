//! Breaking a lock: an operator evicts its holder.

use std::time::Duration;

use lock_core::{BreakMode, Effect, Error, ErrorKind, Eviction, HeldBy, Holder, LockName, Result};
use zookeeper_client::{CreateMode, Error as ZkError, MultiWriteError};

use crate::error::classify;
use crate::head::Head;
use crate::nodes::delete_node;
use crate::opener::{MAX_SESSION_TTL, OpenedSession};
use crate::record::{HolderRecord, encode_blocker};
use crate::store::ZkStore;

/// The time for which a lock stays blocked longer than the lease of its evicted holder, in ticks:
/// for opening the session that blocks it.
const BLOCK_SLACK_TICKS: u32 = 2;

impl ZkStore {
    /// Evicts the holder that was seen; `None` if another one, or none, holds the lock by now.
    ///
    /// Its node is deleted. If the lock is to stay blocked, another node is made in its place in
    /// the same transaction, on a session without heartbeats: all programs go on waiting until that
    /// has ended.
    pub(crate) async fn evict(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let evicted = self.held_by(&head);
        if evicted.holder != seen.holder || (seen.holder.is_none() && evicted.info != seen.info) {
            return Ok(None);
        }
        // No later holder has a smaller one: the next may have stood in the queue for long.
        let token = Some(self.token(head.stat.czxid.saturating_add(1)));
        let free_in = match how {
            BreakMode::Now => {
                let reader = self.opener.reader().await?;
                let deleted = reader.call(|client| delete_node(client, head.path, "breaking a lock")).await?;
                deleted.then_some(Duration::ZERO)
            }
            BreakMode::Revoke => self.block_lock(&head).await?,
        };
        Ok(free_in.map(|free_in| Eviction::new(evicted, token, free_in)))
    }

    /// Replaces this node by one that no holder has; gives the time until that goes. `None` if the
    /// node was not there any more.
    async fn block_lock(&self, head: &Head) -> Result<Option<Duration>> {
        let record = HolderRecord::decode(&head.data);
        // Nobody else knows the TTL of another program's session: it is at most the longest one.
        let ttl = record.as_ref().map_or(MAX_SESSION_TTL, |record| record.extra.ttl().max(self.factory.min_ttl()));
        let slack = self.factory.tick() * BLOCK_SLACK_TICKS;
        let began = self.clock.now();
        let opened = self.opener.open_detached(ttl.saturating_add(slack)).await?;
        // The server counts the TTL from the opening of the session; the write on it counts only
        // somewhat later.
        if self.clock.now().since(began) > slack {
            let text = "the session that would block a lock was opened too slowly; try again";
            return Err(Error::refused(ErrorKind::Unavailable, text));
        }
        let blocker = Holder::fresh();
        let Some((lock_path, _)) = head.path.rsplit_once('/') else { return Ok(None) };
        let blocking = format!("{lock_path}/{}", head.entry_name.replacement(blocker));
        let data = encode_blocker(blocker, record.as_ref());
        match self.replace_node(&opened, &head.path, &blocking, &data).await {
            Ok(()) => Ok(Some(opened.ttl)),
            Err(MultiWriteError::OperationFailed { source: ZkError::NoNode, .. }) => Ok(None),
            Err(failure) => {
                let failed = classify("breaking a lock", failure.into(), true).error;
                let text = format!("{failed}; inspect it again");
                Err(match failed.may_have_taken_effect() {
                    true => Error::new(failed.kind(), Effect::Unknown, text),
                    false => failed,
                })
            }
        }
    }

    /// Deletes one node and makes another, in one transaction.
    async fn replace_node(
        &self,
        opened: &OpenedSession,
        old: &str,
        new: &str,
        data: &[u8],
    ) -> Result<(), MultiWriteError> {
        let mut writer = opened.client.new_multi_writer();
        writer.add_delete(old, None)?;
        writer.add_create(new, data, &CreateMode::Ephemeral.with_acls(self.acls))?;
        writer.commit().await.map(drop)
    }
}
