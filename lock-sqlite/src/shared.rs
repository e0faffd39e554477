//! [`Shared`]: the state that a store shares with its thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use lock_core::Realm;
use lock_core::kit::locked;

use crate::changes::Changes;

/// The state that a store shares with its thread.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) changes: Changes,
    realm: Mutex<Realm>,
    commits: AtomicU64,
    is_gone: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            changes: Changes::new(),
            realm: Mutex::new(Realm::new("")),
            commits: AtomicU64::new(0),
            is_gone: AtomicBool::new(false),
        }
    }

    /// The realm as the last transaction saw it.
    pub(crate) fn realm(&self) -> Realm {
        self.locked().clone()
    }

    pub(crate) fn set_realm(&self, realm: &Realm) {
        let mut known = self.locked();
        if *known != *realm {
            *known = realm.clone();
        }
    }

    fn locked(&self) -> MutexGuard<'_, Realm> {
        locked(&self.realm)
    }

    /// True if the file is no longer where other processes look for it: then none of its locks is
    /// held any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Acquire)
    }

    /// Marks the file as gone, before the waiters are notified.
    pub(crate) fn set_gone(&self) {
        self.is_gone.store(true, Ordering::Release);
        self.changes.notify();
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}
