//! [`World`]: the record of a schedule.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use lock_conformance::history::{History, ObservedLease};
use lock_core::{Clock, LockGuard, Moment, Realm, Validity};

use crate::resource::Resource;

/// The state that all clients of a schedule share: the resource, and the record of who held the
/// lock when.
///
/// Nothing here is async: it is read and written between two await points.
pub(crate) struct World {
    pub(crate) clock: Clock,
    pub(crate) start: Moment,
    pub(crate) validities: Mutex<Vec<Validity>>,
    /// One history for each realm: tokens of two realms have no order.
    pub(crate) histories: Mutex<HashMap<Realm, History>>,
    pub(crate) resource: Mutex<Resource>,
}

impl World {
    pub(crate) fn new() -> World {
        let clock = Clock::system();
        let start = clock.now();
        World { clock, start, validities: Mutex::default(), histories: Mutex::default(), resource: Mutex::default() }
    }

    pub(crate) fn time(&self) -> Duration {
        self.clock.now().since(self.start)
    }

    pub(crate) fn record(&self, realm: &Realm, record: impl FnOnce(&mut History)) {
        record(self.histories.lock().unwrap().entry(realm.clone()).or_default());
    }

    /// Checks that at most one guard is valid now.
    pub(crate) fn assert_exclusive(&self) {
        let validities = self.validities.lock().unwrap();
        let valid: Vec<_> = validities.iter().filter(|validity| validity.is_valid()).collect();
        assert!(valid.len() <= 1, "at {:?} these are valid at once: {valid:?}", self.time());
    }

    /// Notes how long the lease lasts at least, and how long its holder believes in it.
    pub(crate) fn observe(&self, guard: &LockGuard, lease: &mut ObservedLease) {
        self.assert_exclusive();
        let (now, remaining) = (self.time(), guard.remaining());
        if guard.is_valid() {
            lease.believed_until = lease.believed_until.max(now);
            // A fixed lease is released at the end of its validity, a margin before the end of its
            // TTL.
            lease.expires = lease.expires.max(now + remaining);
        }
    }

    /// Checks every history and the fence, after all clients have ended. Returns the number of
    /// updates lost without a fence.
    pub(crate) fn check(&self) -> u64 {
        self.histories.lock().unwrap().values().for_each(|history| history.check().unwrap());
        let resource = self.resource.lock().unwrap();
        assert_eq!(resource.fenced.lost(), 0, "updates were lost behind the fence");
        resource.unfenced.lost()
    }
}
