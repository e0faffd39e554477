//! [`SharedLease`]: an etcd lease that carries the locks of one TTL.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lock_core::Session;
use lock_core::kit::SessionHandle;

use crate::heartbeat::KeepAliveStream;

/// An etcd lease that carries the renewed locks of one TTL, with its session.
pub(crate) struct SharedLease {
    pub(crate) session: Session,
    pub(crate) id: i64,
    /// The stream of its heartbeats, while none is in flight.
    pub(crate) stream: Mutex<Option<KeepAliveStream>>,
    /// Approximate size of the keys on it.
    key_bytes: AtomicUsize,
}

/// Maximum size of the keys on a lease. Every renewal reads them in one message, and etcd's
/// clients take messages of up to four megabytes. Beyond this size a second lease is granted.
const MAX_KEY_BYTES: usize = 2 << 20;

impl SharedLease {
    pub(crate) fn new(session: Session, id: i64) -> SharedLease {
        SharedLease { session, id, stream: Mutex::default(), key_bytes: AtomicUsize::new(0) }
    }

    /// Counts a new key of this length.
    pub(crate) fn add_key_bytes(&self, bytes: usize) {
        self.key_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Corrects the size after the keys were read.
    pub(crate) fn set_key_bytes(&self, bytes: usize) {
        self.key_bytes.store(bytes, Ordering::Relaxed);
    }
}

impl SessionHandle for SharedLease {
    fn session(&self) -> &Session {
        &self.session
    }

    /// True if the lease has space for another key.
    fn has_room(&self) -> bool {
        self.key_bytes.load(Ordering::Relaxed) < MAX_KEY_BYTES
    }
}

impl fmt::Debug for SharedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLease").field("session", &self.session).finish_non_exhaustive()
    }
}
