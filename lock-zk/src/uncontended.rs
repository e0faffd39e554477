//! [`Uncontended`]: lets an uncontended acquire skip the read of the queue.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use lock_core::kit::locked;
use zookeeper_client::OneshotWatcher;

/// Lets an uncontended acquire skip the read of the queue: if this session's last entry of a lock
/// had the number *n*, was the only one and is deleted, and the new entry has the number *n* + 1,
/// nobody came between, and the new entry is the first again.
///
/// ZooKeeper numbers the children of a node in the order of their creation, and counts whatever is
/// created there. The numbers begin anew when the lock node itself is deleted and made again, so
/// that it is watched. ZooKeeper notifies of a watched change before it answers what came after it,
/// on the same session: if there was no notification when the answer is there, the numbers are of
/// one count.
#[derive(Default)]
pub(crate) struct Uncontended(Mutex<State>);

#[derive(Default)]
struct State {
    lock_nodes: HashMap<String, LockNode>,
    /// Counts uses, to number watches and to find the lock that was not used for longest.
    uses: u64,
}

/// The knowledge about one lock node.
struct LockNode {
    /// The value of `uses` at its last use.
    used: u64,
    watch: Option<Watch>,
    /// All entries up to this number are gone, of those that were made while the node was watched.
    last: Option<i64>,
}

/// The watch of a lock node, which lasts as long as the node does.
struct Watch {
    id: u64,
    /// Completes when the node was changed or deleted.
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// An entry that was the only one in its queue when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoleEntry {
    number: i64,
    /// The watch of the lock node below which it was made.
    watch: u64,
}

/// The requests that are sent together with the creation of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A read of the queue.
    List,
    /// A read of the queue, and a watch of the lock node, which is used repeatedly.
    ListAndWatch,
    /// None: the queue was left empty, or is read later.
    NoRead,
}

/// The most lock nodes that are watched on one session.
const MAX_WATCHED_LOCKS: usize = 1024;

impl Uncontended {
    /// The requests to make for a new entry of this lock.
    pub(crate) fn plan(&self, lock_path: &str) -> Plan {
        let state = &mut *locked(&self.0);
        state.uses += 1;
        if let Some(node) = state.lock_nodes.get_mut(lock_path) {
            node.used = state.uses;
            return match (node.watch(), node.last) {
                (Some(_), Some(_)) => Plan::NoRead,
                (Some(_), None) => Plan::List,
                (None, _) => Plan::ListAndWatch,
            };
        }
        if state.lock_nodes.len() >= MAX_WATCHED_LOCKS {
            let oldest = state.lock_nodes.iter().min_by_key(|(_, node)| node.used).map(|(path, _)| path.clone());
            oldest.map(|path| state.lock_nodes.remove(&path));
        }
        state.lock_nodes.insert(lock_path.to_owned(), LockNode { used: state.uses, watch: None, last: None });
        Plan::List
    }

    /// Keeps the watch of a lock node, which was set before any other request of this session
    /// there.
    pub(crate) fn set_watch(&self, lock_path: &str, watcher: OneshotWatcher) {
        let state = &mut *locked(&self.0);
        state.uses += 1;
        if let Some(node) = state.lock_nodes.get_mut(lock_path) {
            node.watch = Some(Watch { id: state.uses, changed: Box::pin(watcher.changed().map(drop)) });
            node.last = None;
        }
    }

    /// Returns `true` if the entry with this number, whose creation was answered just now, is the
    /// only one.
    pub(crate) fn is_sole(&self, lock_path: &str, number: i64) -> bool {
        let state = &mut *locked(&self.0);
        let Some(node) = state.lock_nodes.get_mut(lock_path) else { return false };
        // One use only: whatever entry comes now, the next one needs another `deleted`.
        let last = node.last.take();
        node.watch().is_some() && last.is_some_and(|last| last + 1 == number)
    }

    /// The record of an entry that is the only one, for its deletion; `None` if that is of no use.
    ///
    /// A lock node cannot be deleted while an entry is in it: so a watch that is set now is of the
    /// node below which the entry was made.
    pub(crate) fn sole_entry(&self, lock_path: &str, number: i64) -> Option<SoleEntry> {
        let state = &mut *locked(&self.0);
        state.lock_nodes.get_mut(lock_path)?.watch().map(|watch| SoleEntry { number, watch })
    }

    /// Records that this entry is deleted: with it all up to its number are gone.
    pub(crate) fn deleted(&self, lock_path: &str, sole: SoleEntry) {
        let state = &mut *locked(&self.0);
        if let Some(node) = state.lock_nodes.get_mut(lock_path)
            && node.watch() == Some(sole.watch)
        {
            node.last = Some(sole.number);
        }
    }
}

impl LockNode {
    /// The number of the watch while the node is the same. Once it has notified of a change, the
    /// watch and all knowledge are dropped.
    fn watch(&mut self) -> Option<u64> {
        let watch = self.watch.as_mut()?;
        let id = watch.id;
        if (&mut watch.changed).now_or_never().is_some() {
            (self.watch, self.last) = (None, None);
            return None;
        }
        Some(id)
    }
}

impl fmt::Debug for Uncontended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uncontended").field("lock_nodes", &locked(&self.0).lock_nodes.len()).finish()
    }
}
