//! Entering a queue: the node is created, and the queue is read, in one round trip.

use std::sync::Arc;

use futures_util::future::join;
use lock_core::kit::unix_seconds;
use lock_core::{Attempt, Claim, Effect, Error, ErrorKind, Result};
use zookeeper_client::{Acls, Client, CreateMode, CreateSequence, Error as ZkError, OneshotWatcher, Stat};

use crate::claim_state::ClaimState;
use crate::entry::{EntryNode, QueueEntry};
use crate::entry_name::prefix;
use crate::error::{CallError, classify};
use crate::nodes::{delete_node, make_container};
use crate::queue::{Queue, read_queue};
use crate::queue_reader::Interest;
use crate::record::encode_claim;
use crate::session::ZkSession;
use crate::store::ZkStore;
use crate::uncontended::Plan;

/// The attempts to create an entry while the server deletes the empty lock node before it.
const MAX_CREATE_ATTEMPTS: usize = 3;

/// With this many others that enter a queue, or read it, at the same time, a read is shared.
const SHARED_READ_THRESHOLD: usize = 3;

/// The state of the node below which an entry is created, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LockNode {
    /// It probably exists.
    Expected,
    /// It does not exist: it is created together with the entry.
    Missing,
}

/// The requests that create an entry.
struct Creation {
    lock_path: String,
    lock_node: LockNode,
    path: String,
    data: Vec<u8>,
    acls: Acls<'static>,
    plan: Plan,
}

/// The replies to a [`Creation`].
struct CreationReplies {
    created: Result<(Stat, CreateSequence), ZkError>,
    /// The queue after the creation, if it was read.
    queue: Option<Result<Arc<Queue>, CallError>>,
    watcher: Option<OneshotWatcher>,
}

/// An entry's node that was just created.
struct NewNode {
    node: EntryNode,
    /// The number in its name.
    number: i64,
}

impl ZkStore {
    /// Enters the queue at its end.
    ///
    /// There are four steps: the entry is recorded and the requests are
    /// [chosen](Self::prepare_creation); they are sent; the node is
    /// [recorded](Self::record_creation); and the queue, which is
    /// [read](Self::queue_after_creation) if it was not yet, gives the
    /// [answer](Self::settle_entry).
    pub(crate) async fn enter(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        mut lock_node: LockNode,
    ) -> Result<Attempt, CallError> {
        // A claim that does not queue is granted now or not at all; one that queues may be granted
        // later.
        let since = if claim.queues() { None } else { unix_seconds() };
        for _ in 0..MAX_CREATE_ATTEMPTS {
            let (creation, _interest) = self.prepare_creation(claim, state, entry, lock_node, since);
            let CreationReplies { created, queue, watcher } =
                entry.session().client().call(|client| creation.send(client)).await?;
            if let Some(watcher) = watcher {
                entry.session().uncontended.set_watch(entry.lock_path(), watcher);
            }
            let Some(new) = self.record_creation(claim, state, entry, created)? else {
                if lock_node == LockNode::Missing {
                    // What is above it is missing too.
                    let lock_path = entry.lock_path().to_owned();
                    Box::pin(self.make_lock_node(entry.session(), lock_path)).await?;
                }
                lock_node = LockNode::Missing;
                continue;
            };
            let queue = self.queue_after_creation(entry, &new, queue).await.map_err(with_unknown_effect)?;
            return self.settle_entry(claim, state, entry, new, &queue).await;
        }
        let text = format!("the node of \"{}\" was deleted again and again", claim.name());
        Err(Error::refused(ErrorKind::Unavailable, text).into())
    }

    /// Records that there may be a node from now on, and chooses the requests that create it.
    fn prepare_creation(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        lock_node: LockNode,
        since: Option<u64>,
    ) -> (Creation, Interest) {
        let session = entry.session();
        state.update(session, QueueEntry::creating);
        let (interest, others) = session.queue_reader.announce(entry.lock_path());
        let mut plan = session.uncontended.plan(entry.lock_path());
        if others >= SHARED_READ_THRESHOLD && plan == Plan::List {
            // They share a read after all are created.
            plan = Plan::NoRead;
        }
        let creation = Creation {
            lock_path: entry.lock_path().to_owned(),
            lock_node,
            path: entry.path(&prefix(claim.holder())),
            data: encode_claim(claim, session.ttl, since),
            acls: self.acls,
            plan,
        };
        (creation, interest)
    }

    /// Makes the lock node, and what is missing above it.
    async fn make_lock_node(&self, session: &ZkSession, lock_path: String) -> Result<(), CallError> {
        let acls = self.acls;
        session.client().call(move |client| async move { make_container(&client, &lock_path, acls).await }).await
    }

    /// Records the node that was created; `None` if the lock node was missing.
    fn record_creation(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        created: Result<(Stat, CreateSequence), ZkError>,
    ) -> Result<Option<NewNode>, CallError> {
        let session = entry.session();
        let (stat, sequence) = match created {
            Ok(created) => created,
            Err(failure) => {
                let lacks_lock_node = failure == ZkError::NoNode;
                let failed = classify("asking for a lock", failure, true);
                if !failed.error.may_have_taken_effect() || lacks_lock_node {
                    state.update(session, QueueEntry::not_created);
                }
                return if lacks_lock_node { Ok(None) } else { Err(failed) };
            }
        };
        if stat.ephemeral_owner != session.id || stat.is_invalid() {
            return Err(Error::unexpected_reply("a node of ZooKeeper was made by another session").into());
        }
        let node = EntryNode { name: format!("{}{sequence}", prefix(claim.holder())), czxid: stat.czxid };
        state.update(session, |entry| entry.created(node.clone()));
        Ok(Some(NewNode { node, number: sequence.into_i64() }))
    }

    /// The queue after the creation: as it was listed, or as the number of the node shows it; else
    /// it is read now.
    async fn queue_after_creation(
        &self,
        entry: &QueueEntry,
        new: &NewNode,
        listed: Option<Result<Arc<Queue>, CallError>>,
    ) -> Result<Arc<Queue>, CallError> {
        let session = entry.session();
        match listed {
            Some(queue) => queue,
            None if session.uncontended.is_sole(entry.lock_path(), new.number) => {
                Ok(Arc::new(Queue::of(vec![new.node.name.clone()])))
            }
            None => Box::pin(session.queue_reader.read(session.client(), entry.lock_path(), false)).await,
        }
    }

    /// Answers by the position of the new node. A claim that does not queue is withdrawn unless it
    /// is first.
    async fn settle_entry(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        new: NewNode,
        queue: &Queue,
    ) -> Result<Attempt, CallError> {
        let session = entry.session();
        let Some(position) = queue.position_of(&new.node.name) else {
            let text = "a node of ZooKeeper was deleted as soon as it was made";
            return Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text).into());
        };
        if queue.is_single() {
            let sole = session.uncontended.sole_entry(entry.lock_path(), new.number);
            state.update(session, |entry| entry.set_sole(sole));
        }
        if position > 0 && !claim.queues() {
            // Another claim was faster: nothing of this one may stay.
            let path = entry.path(&new.node.name);
            Box::pin(session.client().call(|client| delete_node(client, path, "asking for a lock"))).await?;
            state.update(session, QueueEntry::deleted);
        }
        let mut entry = entry.clone();
        entry.created(new.node);
        self.answer(claim, state, &entry, queue, position).await.map_err(with_unknown_effect)
    }
}

impl Creation {
    /// Sends the requests together. Requests of one session are served in their order: the lock
    /// node is there before the watch, the watch is set before the creation, and the list shows the
    /// queue after it.
    async fn send(self, client: Client) -> Result<CreationReplies, CallError> {
        let mode = CreateMode::EphemeralSequential.with_acls(self.acls);
        let container = CreateMode::Container.with_acls(self.acls);
        let lock_node = (self.lock_node == LockNode::Missing).then(|| client.create(&self.lock_path, &[], &container));
        let watch = (self.plan == Plan::ListAndWatch).then(|| client.check_and_watch_stat(&self.lock_path));
        let create = client.create(&self.path, &self.data, &mode);
        let (created, queue) = match self.plan {
            Plan::NoRead => (create.await, None),
            Plan::List | Plan::ListAndWatch => {
                let (created, queue) = join(create, read_queue(&client, &self.lock_path, false)).await;
                (created, Some(queue.map(Arc::new)))
            }
        };
        if let Some(lock_node) = lock_node {
            // Another may have made it meanwhile; without it the creation below it has failed.
            _ = lock_node.await;
        }
        let watcher = match watch {
            Some(watch) => watch.await.ok().and_then(|(stat, watcher)| stat.map(|_| watcher)),
            None => None,
        };
        Ok(CreationReplies { created, queue, watcher })
    }
}

/// The same failure, after the node was created: it may exist.
fn with_unknown_effect(failed: CallError) -> CallError {
    let error = Error::new(failed.error.kind(), Effect::Unknown, failed.error.to_string());
    CallError { error, ..failed }
}
