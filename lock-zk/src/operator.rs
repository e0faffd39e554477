//! What operators see and may break.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{BreakMode, Effect, Error, Eviction, HeldBy, Holder, HolderInfo, LockName, Result};
use zookeeper_client::{Client, CreateMode, Error as Failure, MultiWriteError, Stat};

use crate::ZkStore;
use crate::error::{CallError, judge};
use crate::line::Contender;
use crate::link::Link;
use crate::store::line;
use crate::value::Value;

/// The first in line, with what its node says.
pub(crate) struct Head {
    pub(crate) path: String,
    pub(crate) contender: Contender,
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
}

/// How many locks are looked at beside each other for a list.
const BESIDE: usize = 64;

/// How often the first in line is looked at that has gone before it could be read.
const TRIES: usize = 5;

/// How much longer than the lease of the evicted holder a lock stays blocked, in ticks, for the time that it takes to
/// open the session which blocks it.
const SLACK_TICKS: u32 = 2;

impl Head {
    /// The holder, if it is one of ours; also where another program has written over what it said of itself.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match Value::read(&self.data) {
            Some(value) => Some(value.holder),
            None if Value::asks_back(&self.data) => self.contender.holder(),
            None => None,
        }
    }

    /// What people see of a holder that is another program.
    fn stranger(&self) -> HolderInfo {
        let node = &self.contender.node;
        let text = match Value::asks_back(&self.data) {
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
        match self.links.reader().await?.ask(read.clone()).await {
            Err(failed) if failed.session_is_gone => {
                self.links.drop_reader();
                Ok(self.links.reader().await?.ask(read).await?)
            }
            read => Ok(read?),
        }
    }

    /// Who holds the lock, as its node says.
    pub(crate) fn held_by(&self, head: &Head) -> HeldBy {
        let mut by = HeldBy::default();
        by.holder = head.holder();
        by.token = Some(self.token(head.stat.czxid));
        match Value::read(&head.data) {
            Some(value) => {
                by.held_for = value.held_for();
                by.revoked = value.revoked;
                by.info = Some(value.info);
            }
            None => by.info = Some(head.stranger()),
        }
        if by.revoked {
            by.token = None;
        }
        by
    }

    /// The first in line.
    pub(crate) async fn head(&self, name: &LockName) -> Result<Option<Head>> {
        let folder = self.names.folder(name);
        self.read(move |client| {
            let folder = folder.clone();
            async move { head(&client, &folder).await }
        })
        .await
    }

    pub(crate) async fn inspected(&self, name: &LockName) -> Result<Option<HeldBy>> {
        Ok(self.head(name).await?.map(|head| self.held_by(&head)))
    }

    pub(crate) async fn listed(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let base = self.names.base().to_owned();
        let children = move |client: Client| {
            let base = base.clone();
            async move {
                let judged = |failure| judge("listing", failure, false);
                client.sync(&base).await.map_err(judged)?;
                match client.list_children(&base).await {
                    Err(Failure::NoNode) => Ok(Vec::new()),
                    nodes => nodes.map_err(judged),
                }
            }
        };
        let nodes = self.read(children).await?;
        let mut names: Vec<_> = nodes.iter().filter_map(|node| self.names.name_of(node)).collect();
        names.retain(|name| after.is_none_or(|after| name > after));
        names.sort_unstable();
        let mut listed = Vec::new();
        for names in names.chunks(BESIDE) {
            let held = join_all(names.iter().map(|name| self.inspected(name))).await;
            for (name, by) in names.iter().zip(held) {
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
    pub(crate) async fn broken(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let evicted = self.held_by(&head);
        if evicted.holder != seen.holder || (seen.holder.is_none() && evicted.info != seen.info) {
            return Ok(None);
        }
        // No later holder has a smaller one: the next may have stood in line for long.
        let token = Some(self.token(head.stat.czxid.saturating_add(1)));
        let free_in = match how {
            BreakMode::Now => {
                let reader = self.links.reader().await?;
                let deleted = reader.ask(|client| crate::store::delete(client, head.path, "breaking a lock")).await?;
                deleted.then_some(Duration::ZERO)
            }
            BreakMode::Revoke => self.blocked(&head).await?,
        };
        Ok(free_in.map(|free_in| Eviction::new(evicted, token, free_in)))
    }

    /// Puts a node that is nobody's in the place of this one; gives for how long, if this one was still there.
    async fn blocked(&self, head: &Head) -> Result<Option<Duration>> {
        let value = Value::read(&head.data);
        // How long the session of another program lasts is known to nobody else: at most as long as any.
        let longest = Duration::from_millis(i32::MAX.unsigned_abs().into());
        let lasts = value.as_ref().map_or(longest, |value| value.ttl().max(self.sessions.shortest()));
        let slack = self.sessions.tick() * SLACK_TICKS;
        let begun = self.clock.now();
        let link = self.links.open_detached(lasts.saturating_add(slack)).await?;
        // The server counts from the opening of the session; from what is written on it, only somewhat later.
        if self.clock.now().since(begun) > slack {
            let text = "the session that would block a lock was opened too slowly; try again";
            return Err(Error::refused(lock_core::ErrorKind::Unavailable, text));
        }
        let blocker = Holder::fresh();
        let Some((folder, _)) = head.path.rsplit_once('/') else { return Ok(None) };
        let place = format!("{folder}/{}", head.contender.replaced_by(blocker));
        let data = Value::revoked(blocker, value.as_ref());
        match self.replaced(&link, &head.path, &place, &data).await {
            Ok(()) => Ok(Some(link.ttl)),
            Err(MultiWriteError::OperationFailed { source: Failure::NoNode, .. }) => Ok(None),
            Err(failure) => {
                let failed = judge("breaking a lock", failure.into(), true).error;
                let text = format!("{failed}; inspect it again");
                Err(match failed.may_have_taken_effect() {
                    true => Error::new(failed.kind(), Effect::Unknown, text),
                    false => failed,
                })
            }
        }
    }

    async fn replaced(&self, link: &Link, old: &str, new: &str, data: &[u8]) -> Result<(), MultiWriteError> {
        let mut writer = link.client.new_multi_writer();
        writer.add_delete(old, None)?;
        writer.add_create(new, data, &CreateMode::Ephemeral.with_acls(self.acls))?;
        writer.commit().await.map(drop)
    }
}

/// The first in line of the lock with this node.
async fn head(client: &Client, folder: &str) -> Result<Option<Head>, CallError> {
    for _ in 0..TRIES {
        let line = line(client, folder, true).await?;
        let Some(first) = line.first() else { return Ok(None) };
        if let Some(head) = read_head(client, &format!("{folder}/{}", first.node)).await? {
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
        Err(Failure::NoNode) => return Ok(None),
        Err(failure) => return Err(judge("inspecting", failure, false)),
    };
    let contender = path.rsplit_once('/').and_then(|(_, node)| Contender::of(node.to_owned()));
    Ok(contender.map(|contender| Head { path: path.to_owned(), contender, data, stat }))
}
