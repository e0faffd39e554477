//! [`Uncontended`]: the locks' nodes that this session left empty.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;

use futures_util::FutureExt as _;
use zookeeper_client::OneshotWatcher;

use crate::session::locked;

/// The locks' nodes that this session left empty, by which the next to come there knows without a look that it is alone.
///
/// ZooKeeper numbers the children of a node in the order of their creation, and counts whatever is created there. Who
/// was the first of the line with the number *n*, has deleted its node, and then makes the one with *n* + 1, is the first
/// again: nobody came between. The numbers begin anew when the lock's node itself is deleted and made again, so that it is
/// watched. ZooKeeper tells of a watched change before it answers what came after it, on the same session: while
/// nothing was told when the answer is there, the numbers are of one count.
#[derive(Default)]
pub(crate) struct Uncontended(Mutex<State>);

#[derive(Default)]
struct State {
    lock_nodes: HashMap<String, LockNode>,
    uses: u64,
}

/// A lock's node.
struct LockNode {
    used: u64,
    watch: Option<Watch>,
    /// All nodes up to this number are gone, of those that were made while it was watched.
    last: Option<i64>,
}

/// Of a lock's node, as long as it is the same one.
struct Watch {
    id: u64,
    /// Completes when the node was changed or deleted.
    changed: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A node that was alone when it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SoleEntry {
    number: i64,
    /// The watch of the lock's node that it was made in.
    watch: u64,
}

/// What is to be done beside the creation of a node in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// A look at the line.
    CreateAndList,
    /// A look at the line, and a watch of the lock's node: it is used again and again.
    CreateListAndWatch,
    /// Nothing: the line was left empty.
    CreateOnly,
}

/// So many locks' nodes are watched on one session.
const MAX_WATCHED_LOCKS: usize = 1024;

impl Uncontended {
    /// What is to be done beside the creation of a node in this folder.
    pub(crate) fn plan(&self, lock_path: &str) -> Plan {
        let state = &mut *locked(&self.0);
        state.uses += 1;
        if let Some(found) = state.lock_nodes.get_mut(lock_path) {
            found.used = state.uses;
            return match (found.watch(), found.last) {
                (Some(_), Some(_)) => Plan::CreateOnly,
                (Some(_), None) => Plan::CreateAndList,
                (None, _) => Plan::CreateListAndWatch,
            };
        }
        if state.lock_nodes.len() >= MAX_WATCHED_LOCKS {
            let oldest = state.lock_nodes.iter().min_by_key(|(_, node)| node.used).map(|(path, _)| path.clone());
            oldest.map(|path| state.lock_nodes.remove(&path));
        }
        state.lock_nodes.insert(lock_path.to_owned(), LockNode { used: state.uses, watch: None, last: None });
        Plan::CreateAndList
    }

    /// A watch of the folder, made before anything else of this session was sent there.
    pub(crate) fn set_watch(&self, lock_path: &str, watcher: OneshotWatcher) {
        let state = &mut *locked(&self.0);
        state.uses += 1;
        if let Some(found) = state.lock_nodes.get_mut(lock_path) {
            found.watch = Some(Watch { id: state.uses, changed: Box::pin(watcher.changed().map(drop)) });
            found.last = None;
        }
    }

    /// Whether the node with this number, whose creation was answered just now, is alone.
    pub(crate) fn is_uncontended(&self, lock_path: &str, number: i64) -> bool {
        let state = &mut *locked(&self.0);
        let Some(found) = state.lock_nodes.get_mut(lock_path) else { return false };
        // Only the next node is the next one; and where there were others, a look is made in one go with the creation.
        let last = found.last.take();
        found.watch().is_some() && last.is_some_and(|last| last + 1 == number)
    }

    /// What is to be kept of a node that is alone in its line; nothing where that is of no use. The lock's node cannot be
    /// deleted while one is in it: so a watch of it that stands now is of the one that this was made in.
    pub(crate) fn sole_entry(&self, lock_path: &str, number: i64) -> Option<SoleEntry> {
        let state = &mut *locked(&self.0);
        state.lock_nodes.get_mut(lock_path)?.watch().map(|watch| SoleEntry { number, watch })
    }

    /// That node is deleted, and with it all up to its number are gone.
    pub(crate) fn deleted(&self, lock_path: &str, sole: SoleEntry) {
        let state = &mut *locked(&self.0);
        if let Some(found) = state.lock_nodes.get_mut(lock_path)
            && found.watch() == Some(sole.watch)
        {
            found.last = Some(sole.number);
        }
    }
}

impl LockNode {
    /// The watch that tells that it is the same as ever; none once that has told of something, and nothing is known then.
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
        f.debug_struct("Emptied").field("lock_nodes", &locked(&self.0).lock_nodes.len()).finish()
    }
}
