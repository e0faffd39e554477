//! [`NameWatch`]: the state of the watch of one name.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use lock_core::kit::locked;
use lock_core::{Error, HeldBy};
use tokio::sync::Notify;

use crate::lock_key::LockKey;
use crate::queue_entry::QueueEntry;

/// The watches of a handle, by key range.
pub(super) type WatchMap = HashMap<Vec<u8>, Arc<NameWatch>>;

/// The watch of the keys of one name.
pub(super) struct NameWatch {
    pub(super) state: Mutex<WatchState>,
}

pub(super) struct WatchState {
    pub(super) phase: Phase,
    /// The latest deletions.
    pub(super) deletions: VecDeque<Deletion>,
    /// When the watch is live, `deletions` is complete after this revision.
    pub(super) complete_from: i64,
    pub(super) subscribers: HashMap<Vec<u8>, Vec<Arc<Notify>>>,
    /// The keys that this process is deleting, with the number of calls that do so. Their
    /// subscribers are notified by the call's reply, which contains more than the watch's event.
    pub(super) pending_deletions: HashMap<Vec<u8>, u32>,
    /// A subscription was made since the last idle check.
    pub(super) used: bool,
    /// The waiting entries of this process by create revision, as far as they are known.
    pub(super) queue: BTreeMap<i64, Vec<u8>>,
    /// The holder that the last of them knows.
    pub(super) known_holder: HeldBy,
}

pub(super) enum Phase {
    Opening,
    Live,
    /// The watch was idle.
    Closed,
    Failed(Error),
}

/// The deletion of one key.
pub(super) struct Deletion {
    pub(super) revision: i64,
    pub(super) key: Vec<u8>,
    pub(super) next: Option<NextHead>,
}

/// The head of the queue after a release by this process.
#[derive(Clone, Debug)]
pub(crate) struct NextHead {
    /// The revision of the transaction that released the lock and read the head.
    pub(crate) revision: i64,
    pub(crate) head: LockKey,
}

/// The deletion of a key by this process, until its reply has come.
pub(crate) struct PendingDeletion {
    watch: Arc<NameWatch>,
    key: Vec<u8>,
}

/// Maximum number of recorded deletions. They bridge the gap between a waiter's reading and its
/// subscription.
const MAX_DELETIONS: usize = 256;

impl NameWatch {
    pub(super) fn new() -> NameWatch {
        let state = WatchState {
            phase: Phase::Opening,
            deletions: VecDeque::new(),
            complete_from: i64::MAX,
            subscribers: HashMap::new(),
            pending_deletions: HashMap::new(),
            used: true,
            queue: BTreeMap::new(),
            known_holder: HeldBy::default(),
        };
        NameWatch { state: Mutex::new(state) }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(locked(&self.state).phase, Phase::Closed | Phase::Failed(_))
    }

    /// Adds an entry that waits.
    pub(super) fn add_entry(&self, entry: &QueueEntry) {
        if entry.create_revision != 0 {
            let mut state = locked(&self.state);
            state.queue.insert(entry.create_revision, entry.key.clone());
            state.known_holder = entry.known_holder.clone();
        }
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        let mut state = locked(&self.state);
        state.phase = phase;
        state.subscribers.values().flatten().for_each(|woken| woken.notify_one());
    }

    /// From now on the watch covers everything after `revision`.
    pub(super) fn go_live(&self, revision: i64) {
        locked(&self.state).complete_from = revision;
        self.set_phase(Phase::Live);
    }

    /// Handles the watch's event of a deletion.
    pub(super) fn on_deleted(&self, revision: i64, key: &[u8]) {
        let mut state = locked(&self.state);
        state.record_deletion(Deletion { revision, key: key.to_vec(), next: None });
        if !state.pending_deletions.contains_key(key) {
            state.notify(key);
        }
    }
}

impl WatchState {
    /// Records a deletion. The watch and the call that deleted the key may both report it, in any
    /// order.
    fn record_deletion(&mut self, deletion: Deletion) {
        let same = |known: &&mut Deletion| known.revision == deletion.revision && known.key == deletion.key;
        if let Some(known) = self.deletions.iter_mut().rev().find(same) {
            known.next = known.next.take().or(deletion.next);
            return;
        }
        self.deletions.push_back(deletion);
        if self.deletions.len() > MAX_DELETIONS {
            let forgotten = self.deletions.pop_front().map_or(0, |deletion| deletion.revision);
            self.complete_from = self.complete_from.max(forgotten);
        }
    }

    /// Notifies the subscribers of this key.
    fn notify(&self, key: &[u8]) {
        self.subscribers.get(key).into_iter().flatten().for_each(|woken| woken.notify_one());
    }
}

impl PendingDeletion {
    pub(super) fn new(watch: Arc<NameWatch>, key: &[u8]) -> PendingDeletion {
        *locked(&watch.state).pending_deletions.entry(key.to_vec()).or_default() += 1;
        PendingDeletion { watch, key: key.to_vec() }
    }

    /// The key was deleted at this revision, and `head` was the head of the queue then.
    pub(crate) fn finish(self, revision: i64, head: Option<LockKey>) {
        let next = head.map(|head| NextHead { revision, head });
        locked(&self.watch.state).record_deletion(Deletion { revision, key: self.key.clone(), next });
    }
}

impl Drop for PendingDeletion {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(calls) = state.pending_deletions.get_mut(&self.key) {
            *calls -= 1;
            if *calls == 0 {
                state.pending_deletions.remove(&self.key);
            }
        }
        // Also without a reply: then the subscribers read the queue themselves.
        state.notify(&self.key);
    }
}
