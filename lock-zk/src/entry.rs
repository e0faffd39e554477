//! [`QueueEntry`]: the record of one claim's entry in a queue.

use std::sync::Arc;

use lock_core::kit::unix_seconds;

use crate::session::ZkSession;
use crate::uncontended::SoleEntry;

/// The record of one claim's entry in a queue. It is kept before anything is written for the claim.
///
/// | state | node | in doubt | granted |
/// |---|---|---|---|
/// | no node | none | no | no |
/// | [creating](QueueEntry::creating): no answer yet | none | yes | no |
/// | [created](QueueEntry::created): waits | known | no | no |
/// | [granted](QueueEntry::grant) | known | no | yes |
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    lock_path: String,
    session: Arc<ZkSession>,
    node: Option<EntryNode>,
    in_doubt: bool,
    granted: bool,
    /// Set if the entry was the only one in its queue when it was made.
    sole: Option<SoleEntry>,
    /// The time of the grant, until it is written into the node.
    unwritten_since: Option<u64>,
    /// The node before, as of the last read of the queue.
    predecessor: Option<String>,
}

/// The node of an entry.
#[derive(Clone, Debug)]
pub(crate) struct EntryNode {
    /// Its name below the lock node.
    pub(crate) name: String,
    /// The transaction that made it: the fencing token.
    pub(crate) czxid: i64,
}

impl QueueEntry {
    /// The record of an entry that is to be made on this session.
    pub(crate) fn new(lock_path: String, session: Arc<ZkSession>) -> QueueEntry {
        QueueEntry {
            lock_path,
            session,
            node: None,
            in_doubt: false,
            granted: false,
            sole: None,
            unwritten_since: None,
            predecessor: None,
        }
    }

    /// The path of the lock node.
    pub(crate) fn lock_path(&self) -> &str {
        &self.lock_path
    }

    pub(crate) fn session(&self) -> &Arc<ZkSession> {
        &self.session
    }

    /// The entry's node; `None` while it is not known.
    pub(crate) fn node(&self) -> Option<&EntryNode> {
        self.node.as_ref()
    }

    /// The path of the entry's node.
    pub(crate) fn node_path(&self) -> Option<String> {
        self.node.as_ref().map(|node| self.path(&node.name))
    }

    /// The path of a child of the lock node.
    pub(crate) fn path(&self, node: &str) -> String {
        format!("{}/{node}", self.lock_path)
    }

    /// Returns `true` if the creation of a node has no answer yet, and may never have: there may be
    /// a node.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt
    }

    /// Returns `true` if the claim was granted the lock.
    pub(crate) fn is_granted(&self) -> bool {
        self.granted
    }

    /// The record for [`Uncontended`](crate::uncontended::Uncontended), if the entry was the only
    /// one in its queue when it was made.
    pub(crate) fn sole(&self) -> Option<SoleEntry> {
        self.sole
    }

    /// The time of the grant, by the wall clock, in seconds, if the node does not have it yet.
    pub(crate) fn unwritten_since(&self) -> Option<u64> {
        self.unwritten_since
    }

    /// The path of the node before this entry's, whose end may make it the first.
    pub(crate) fn predecessor(&self) -> Option<&str> {
        self.predecessor.as_deref()
    }

    /// A node is about to be created: from now on there may be one.
    pub(crate) fn creating(&mut self) {
        (self.node, self.in_doubt, self.granted, self.sole) = (None, true, false, None);
    }

    /// The creation certainly made no node.
    pub(crate) fn not_created(&mut self) {
        self.in_doubt = false;
    }

    /// The node exists.
    pub(crate) fn created(&mut self, node: EntryNode) {
        (self.node, self.in_doubt) = (Some(node), false);
    }

    /// The node was the only one in its queue when it was made, if there is a record of that.
    pub(crate) fn set_sole(&mut self, sole: Option<SoleEntry>) {
        self.sole = sole;
    }

    /// The lock is granted. The node of a claim that queues does not have the time of the grant
    /// yet.
    pub(crate) fn grant(&mut self, queues: bool) {
        if !std::mem::replace(&mut self.granted, true) && queues {
            self.unwritten_since = unix_seconds();
        }
    }

    /// The time of the grant is written into the node.
    pub(crate) fn since_written(&mut self) {
        self.unwritten_since = None;
    }

    /// The entry waits for the node with this path to go.
    pub(crate) fn wait_for(&mut self, predecessor: Option<String>) {
        self.predecessor = predecessor;
    }

    /// The node does not exist, and none can come any more.
    pub(crate) fn lost(&mut self) {
        (self.node, self.in_doubt, self.granted) = (None, false, false);
    }

    /// The node is deleted. A request that was given up may still make another one, so that a doubt
    /// stays.
    pub(crate) fn deleted(&mut self) {
        (self.node, self.granted) = (None, false);
    }
}
