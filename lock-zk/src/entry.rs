//! [`QueueEntry`]: where one claim stands; [`ClaimState`], what the store keeps with each claim.

use std::sync::{Arc, Mutex};

use lock_core::Claim;

use crate::session::{ZkSession, locked};
use crate::uncontended::SoleEntry;

/// What the store keeps with each claim.
#[derive(Debug, Default)]
pub(crate) struct ClaimState {
    entry: Mutex<Option<QueueEntry>>,
}

/// Where one claim stands, or may stand: it is noted before anything is written.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    /// The node of the lock.
    pub(crate) lock_path: String,
    pub(crate) zk_session: Arc<ZkSession>,
    /// The claim's own node, once it is known.
    pub(crate) node: Option<EntryNode>,
    /// The creation of a node brought no answer yet, and may never: there may be one.
    pub(crate) in_doubt: bool,
    /// The claim was told that it holds the lock.
    pub(crate) granted: bool,
    /// Its node, where it was the only one in the line when it was made.
    pub(crate) sole: Option<SoleEntry>,
    /// Since when it holds it, by the wall clock, in seconds, where its node does not say so yet.
    pub(crate) unwritten_since: Option<u64>,
    /// The path of the node whose end may make this claim's the first.
    pub(crate) predecessor: Option<String>,
}

/// A claim's own node.
#[derive(Clone, Debug)]
pub(crate) struct EntryNode {
    /// Its name in the lock_path.
    pub(crate) name: String,
    /// The transaction that made it: the fencing token.
    pub(crate) czxid: i64,
}

impl QueueEntry {
    pub(crate) fn new(lock_path: String, zk_session: Arc<ZkSession>) -> QueueEntry {
        QueueEntry {
            lock_path,
            zk_session,
            node: None,
            in_doubt: false,
            granted: false,
            sole: None,
            unwritten_since: None,
            predecessor: None,
        }
    }

    /// The path of a node in the lock_path.
    pub(crate) fn path(&self, node: &str) -> String {
        format!("{}/{node}", self.lock_path)
    }

    /// The path of the own node, if it is known.
    pub(crate) fn own(&self) -> Option<String> {
        self.node.as_ref().map(|node| self.path(&node.name))
    }
}

impl ClaimState {
    pub(crate) fn of(claim: &Claim) -> &ClaimState {
        claim.store_state(ClaimState::default)
    }

    pub(crate) fn entry(&self) -> Option<QueueEntry> {
        locked(&self.entry).clone()
    }

    /// Notes where the claim stands from now on.
    pub(crate) fn set_entry(&self, entry: QueueEntry) {
        *locked(&self.entry) = Some(entry);
    }

    pub(crate) fn take_entry(&self) -> Option<QueueEntry> {
        locked(&self.entry).take()
    }

    /// Changes the place, if the claim still has one on this session.
    pub(crate) fn update(&self, zk_session: &Arc<ZkSession>, change: impl FnOnce(&mut QueueEntry)) {
        if let Some(entry) = locked(&self.entry).as_mut().filter(|entry| Arc::ptr_eq(&entry.zk_session, zk_session)) {
            change(entry);
        }
    }
}
