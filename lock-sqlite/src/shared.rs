//! [`Shared`]: what the store and its worker share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lock_core::Realm;

use crate::changes::Changes;

/// What the store and its worker share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) changes: Changes,
    realm: Mutex<Realm>,
    commits: AtomicU64,
    gone: AtomicBool,
}

impl Shared {
    pub(crate) fn new() -> Shared {
        Shared {
            changes: Changes::new(),
            realm: Mutex::new(Realm::new("")),
            commits: AtomicU64::new(0),
            gone: AtomicBool::new(false),
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
        self.realm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the file is no longer where others look for it: then nothing that was held in it is held any more.
    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// It is noticed before anybody is told.
    pub(crate) fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
        self.changes.tell();
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn committed(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }
}
