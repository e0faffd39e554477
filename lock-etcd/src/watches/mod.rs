//! [`Watches`]: one long-lived watch for each name that this process waits for.

mod name_watch;
mod subscription;
mod task;

use std::fmt;
use std::sync::{Arc, Mutex};

use lock_core::kit::locked;
use lock_core::{HeldBy, Result};

use self::name_watch::{NameWatch, NextHead, PendingDeletion, WatchMap};
use self::subscription::Subscription;
use self::task::WatchTask;
use crate::members::Members;
use crate::queue_entry::{MAX_SHORT_QUEUE, QueueEntry};

/// One long-lived watch for each name that this process waits for.
///
/// Etcd serves a watch that starts at a revision in the past on a tick of 100 ms, which would limit
/// each waiter to ten hand-overs a second. So a watch starts from now and stays for all waiters,
/// and a waiter reads its predecessor once more unless the watch covers everything since its own
/// reading.
///
/// If the holder is of this process too, the transaction of its release reads the new head of the
/// queue, and its reply wakes the waiter: a hand-over within one process is one step.
///
/// The watches run in the background, since the runtime of the first waiter may stand still.
pub(crate) struct Watches {
    members: Arc<Members>,
    /// Lock order: this map first, then the state of a watch.
    by_range: Arc<Mutex<WatchMap>>,
}

impl Watches {
    pub(crate) fn new(members: Arc<Members>) -> Watches {
        Watches { members, by_range: Arc::default() }
    }

    /// Completes when the predecessor of this entry, which stood at revision `seen`, may have gone.
    /// Gives the new head of the queue, if it is known.
    pub(crate) async fn wait_for_deletion(&self, entry: &QueueEntry, seen: i64) -> Result<Option<NextHead>> {
        let Some((key, create_revision)) = &entry.predecessor else { return Ok(None) };
        loop {
            let watch = self.find_or_open(&entry.range)?;
            watch.add_entry(entry);
            let subscription = Subscription::new(watch, key, *create_revision);
            match subscription.wait(&self.members, seen).await {
                Some(result) => return result,
                // The watch had just been closed because nothing subscribed to it.
                None => continue,
            }
        }
    }

    /// True if this process has waited in this range lately.
    pub(crate) fn is_watched(&self, range: &[u8]) -> bool {
        self.find(range).is_some()
    }

    /// The last entry of this process with the holder that it knows, if the queue of this process
    /// is long.
    pub(crate) fn last_of_long_queue(&self, range: &[u8]) -> Option<(Vec<u8>, i64, HeldBy)> {
        let watch = self.find(range)?;
        let state = locked(&watch.state);
        let last = state.queue.last_key_value().filter(|_| state.queue.len() > MAX_SHORT_QUEUE as usize);
        let (create_revision, key) = last?;
        Some((key.clone(), *create_revision, state.known_holder.clone()))
    }

    /// The next older entry of this process.
    pub(crate) fn predecessor_of(&self, entry: &QueueEntry) -> Option<(Vec<u8>, i64)> {
        let watch = self.find(&entry.range)?;
        let state = locked(&watch.state);
        let older = state.queue.range(..entry.create_revision).next_back();
        older.map(|(create_revision, key)| (key.clone(), *create_revision))
    }

    /// Removes an entry that is being withdrawn, or no longer exists.
    pub(crate) fn remove_entry(&self, entry: &QueueEntry) {
        if let Some(watch) = self.find(&entry.range) {
            locked(&watch.state).queue.remove(&entry.create_revision);
        }
    }

    /// Notes that this process is deleting `key`; `None` if it has not waited in this range lately.
    pub(crate) fn start_deletion(&self, range: &[u8], key: &[u8]) -> Option<PendingDeletion> {
        Some(PendingDeletion::new(self.find(range)?, key))
    }

    fn find(&self, range: &[u8]) -> Option<Arc<NameWatch>> {
        locked(&self.by_range).get(range).filter(|watch| !watch.is_over()).cloned()
    }

    /// The watch of the keys in this range; it is opened if there is none.
    fn find_or_open(&self, range: &[u8]) -> Result<Arc<NameWatch>> {
        let mut by_range = locked(&self.by_range);
        if let Some(watch) = by_range.get(range).filter(|watch| !watch.is_over()) {
            return Ok(watch.clone());
        }
        let background = lock_core::runtime::background()?;
        let watch = Arc::new(NameWatch::new());
        by_range.insert(range.to_vec(), watch.clone());
        let task = WatchTask {
            members: self.members.clone(),
            by_range: self.by_range.clone(),
            range: range.to_vec(),
            watch: watch.clone(),
        };
        background.spawn(task.run());
        Ok(watch)
    }
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("names", &locked(&self.by_range).len()).finish()
    }
}
