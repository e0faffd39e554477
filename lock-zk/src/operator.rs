//! What operators see and may break.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{BreakMode, Effect, Error, Eviction, HeldBy, Holder, HolderInfo, LockName, Result};
use zookeeper_client::{Client, CreateMode, Error as ZkError, MultiWriteError, Stat};

use crate::ZkStore;
use crate::error::{CallError, classify};
use crate::opener::OpenedSession;
use crate::queue::EntryName;
use crate::record::HolderRecord;
use crate::store::read_queue;

/// The first in line, with what its node says.
pub(crate) struct Head {
    pub(crate) path: String,
    pub(crate) entry_name: EntryName,
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
}

/// How many locks are looked at beside each other for a list.
const MAX_CONCURRENT_READS: usize = 64;

/// How often the first in line is looked at that has gone before it could be read.
const MAX_HEAD_READS: usize = 5;

/// How much longer than the lease of the evicted holder a lock stays blocked, in ticks, for the time that it takes to
/// open the session which blocks it.
const BLOCK_SLACK_TICKS: u32 = 2;

impl Head {
    /// The holder, if it is one of ours; also where another program has written over what it said of itself.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match HolderRecord::decode(&self.data) {
            Some(value) => Some(value.holder),
            None if HolderRecord::is_revocation_request(&self.data) => self.entry_name.holder(),
            None => None,
        }
    }

    /// What people see of a holder that is another program.
    fn foreign_info(&self) -> HolderInfo {
        let node = &self.entry_name.node;
        let text = match HolderRecord::is_revocation_request(&self.data) {
            true => format!("asked to give it back (__REVOKE__), node {node}"),
            false => format!("another program, node {node}"),
        };
        HolderInfo::new("", 0, &text)
    }
}

impl ZkStore {
    /// Reads by the session on which nothing depends; by a new one, if that has ended.
    pub(crate) async fn read<T, F>(&self, read: impl Fn(Client) -> F + Clone + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        match self.opener.reader().await?.call(read.clone()).await {
            Err(failed) if failed.session_is_gone => {
                self.opener.forget_reader();
                Ok(self.opener.reader().await?.call(read).await?)
            }
            read => Ok(read?),
        }
    }

    /// Who holds the lock, as its node says.
    pub(crate) fn held_by(&self, head: &Head) -> HeldBy {
        let mut by = HeldBy::default();
        by.holder = head.holder();
        by.token = Some(self.token(head.stat.czxid));
        match HolderRecord::decode(&head.data) {
            Some(value) => {
                by.held_for = value.held_for();
                by.revoked = value.revoked;
                by.info = Some(value.info);
            }
            None => by.info = Some(head.foreign_info()),
        }
        if by.revoked {
            by.token = None;
        }
        by
    }

    /// The first in line.
    pub(crate) async fn head(&self, name: &LockName) -> Result<Option<Head>> {
        let lock_path = self.layout.lock_path(name);
        self.read(move |client| {
            let lock_path = lock_path.clone();
            async move { find_head(&client, &lock_path).await }
        })
        .await
    }

    pub(crate) async fn read_holder(&self, name: &LockName) -> Result<Option<HeldBy>> {
        Ok(self.head(name).await?.map(|head| self.held_by(&head)))
    }

    pub(crate) async fn list_held(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let base = self.layout.base().to_owned();
        let children = move |client: Client| {
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
        let nodes = self.read(children).await?;
        let mut names: Vec<_> = nodes.iter().filter_map(|node| self.layout.name_of(node)).collect();
        names.retain(|name| after.is_none_or(|after| name > after));
        names.sort_unstable();
        let mut listed = Vec::new();
        for chunk in names.chunks(MAX_CONCURRENT_READS) {
            let held = join_all(chunk.iter().map(|name| self.read_holder(name))).await;
            for (name, by) in chunk.iter().zip(held) {
                if let Some(by) = by?.filter(|_| listed.len() < limit) {
                    listed.push((name.clone(), by));
                }
            }
            if listed.len() == limit {
                break;
            }
        }
        Ok(listed)
    }

    /// Evicts the holder that was seen. Its node is deleted; where the lock is to stay blocked, another node is made in
    /// its very place, in the same transaction, on a session that nobody keeps: so all programs go on waiting until that has
    /// ended.
    pub(crate) async fn evict(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let evicted = self.held_by(&head);
        if evicted.holder != seen.holder || (seen.holder.is_none() && evicted.info != seen.info) {
            return Ok(None);
        }
        // No later holder has a smaller one: the next may have stood in line for long.
        let token = Some(self.token(head.stat.czxid.saturating_add(1)));
        let free_in = match how {
            BreakMode::Now => {
                let reader = self.opener.reader().await?;
                let deleted =
                    reader.call(|client| crate::store::delete_node(client, head.path, "breaking a lock")).await?;
                deleted.then_some(Duration::ZERO)
            }
            BreakMode::Revoke => self.block_lock(&head).await?,
        };
        Ok(free_in.map(|free_in| Eviction::new(evicted, token, free_in)))
    }

    /// Puts a node that is nobody's in the place of this one; gives for how long, if this one was still there.
    async fn block_lock(&self, head: &Head) -> Result<Option<Duration>> {
        let value = HolderRecord::decode(&head.data);
        // How long the session of another program lasts is known to nobody else: at most as long as any.
        let longest = Duration::from_millis(i32::MAX.unsigned_abs().into());
        let old_ttl = value.as_ref().map_or(longest, |value| value.ttl().max(self.sessions.min_ttl()));
        let slack = self.sessions.tick() * BLOCK_SLACK_TICKS;
        let begun = self.clock.now();
        let opened = self.opener.open_detached(old_ttl.saturating_add(slack)).await?;
        // The server counts from the opening of the session; from what is written on it, only somewhat later.
        if self.clock.now().since(begun) > slack {
            let text = "the session that would block a lock was opened too slowly; try again";
            return Err(Error::refused(lock_core::ErrorKind::Unavailable, text));
        }
        let blocker = Holder::fresh();
        let Some((lock_path, _)) = head.path.rsplit_once('/') else { return Ok(None) };
        let new = format!("{lock_path}/{}", head.entry_name.replacement(blocker));
        let data = HolderRecord::encode_blocker(blocker, value.as_ref());
        match self.replace_node(&opened, &head.path, &new, &data).await {
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

/// The first in line of the lock with this node.
async fn find_head(client: &Client, lock_path: &str) -> Result<Option<Head>, CallError> {
    for _ in 0..MAX_HEAD_READS {
        let queue = read_queue(client, lock_path, true).await?;
        let Some(first) = queue.first() else { return Ok(None) };
        if let Some(head) = read_head(client, &format!("{lock_path}/{}", first.node)).await? {
            return Ok(Some(head));
        }
    }
    let text = "who holds the lock changes faster than it can be read";
    Err(Error::refused(lock_core::ErrorKind::Unavailable, text).into())
}

/// What the node with this path says of its holder; nothing, if it has just gone.
pub(crate) async fn read_head(client: &Client, path: &str) -> Result<Option<Head>, CallError> {
    let (data, stat) = match client.get_data(path).await {
        Ok(read) => read,
        Err(ZkError::NoNode) => return Ok(None),
        Err(failure) => return Err(classify("inspecting", failure, false)),
    };
    let entry_name = path.rsplit_once('/').and_then(|(_, node)| EntryName::of(node.to_owned()));
    Ok(entry_name.map(|entry_name| Head { path: path.to_owned(), entry_name, data, stat }))
}
