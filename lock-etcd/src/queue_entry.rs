//! [`Place`]: where one claim stands; [`Notes`], what the store keeps with each claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Claim, HeldBy};

use crate::holder_record::HolderRecord;
use crate::key_pool::PooledKey;
use crate::session_pool::SharedLease;
use crate::transactions::LockKey;

/// What the store keeps with each claim.
#[derive(Debug, Default)]
pub(crate) struct ClaimState {
    entry: Mutex<Option<QueueEntry>>,
    in_doubt: AtomicBool,
    released: AtomicBool,
}

/// Where one claim stands, or may stand: it is noted before anything is written.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    /// What the keys of the lock begin with.
    pub(crate) range: Vec<u8>,
    /// The claim's own key, for as long as it has it.
    pooled_key: Arc<PooledKey>,
    pub(crate) key: Vec<u8>,
    /// What the key says if the lock is free, and what if the claim has to queue. No other claim writes either.
    pub(crate) value_if_free: Vec<u8>,
    pub(crate) value_if_queued: Vec<u8>,
    /// The etcd lease of the key.
    pub(crate) lease_id: i64,
    pub(crate) ttl: Duration,
    /// The shared session that the lease belongs to; `None` for a lease of the claim's own.
    pub(crate) shared_lease: Option<Arc<SharedLease>>,
    /// The key's create revision, once it is known; 0 before.
    pub(crate) create_revision: i64,
    /// The revision of the first reading that found the key first in line.
    pub(crate) token: Option<u64>,
    /// The revision of a release of this process that found the key first in line, until that is used.
    pub(crate) handed_over_at: Option<i64>,
    /// The key whose end may make this claim's the first, and its create revision.
    pub(crate) predecessor: Option<(Vec<u8>, i64)>,
    /// What the waiter was last told of the holder, and of how many are ahead.
    pub(crate) known_holder: HeldBy,
}

/// With more than this ahead, a waiter that looks again glances at the one before it only, and not at the whole line; and so many of one process are a crowd.
pub(crate) const MAX_SHORT_QUEUE: u32 = 32;

impl QueueEntry {
    pub(crate) fn new(range: Vec<u8>, slot: Arc<PooledKey>, claim: &Claim, lease: i64, ttl: Duration) -> QueueEntry {
        QueueEntry {
            range,
            key: slot.key(),
            pooled_key: slot,
            value_if_free: HolderRecord::encode_claim(claim, false),
            value_if_queued: HolderRecord::encode_claim(claim, true),
            lease_id: lease,
            ttl,
            shared_lease: None,
            create_revision: 0,
            token: None,
            handed_over_at: None,
            predecessor: None,
            known_holder: HeldBy::default(),
        }
    }

    /// Put on a shared session.
    pub(crate) fn on_shared_lease(mut self, shared_lease: Arc<SharedLease>) -> QueueEntry {
        shared_lease.add_key_bytes(self.key.len());
        self.shared_lease = Some(shared_lease);
        self
    }

    /// Whether this key is the claim's own. An operator who revokes a lock puts its key on another lease.
    pub(crate) fn owns(&self, key: &LockKey) -> bool {
        key.lease_id == self.lease_id && (key.value == self.value_if_free || key.value == self.value_if_queued)
    }

    /// Whether this key is the claim's own, in the place in the line that the claim knows of.
    pub(crate) fn is_current(&self, key: &LockKey) -> bool {
        key.key == self.key && key.create_revision == self.create_revision && self.owns(key)
    }

    /// Whom it waits for, if that is one far from the head of the line.
    pub(crate) fn distant_predecessor(&self) -> Option<(&[u8], i64)> {
        let (key, created) = self.predecessor.as_ref()?;
        self.is_far_back().then_some((key, *created))
    }

    /// Whether it is a waiter that was far from the head of the line when it last saw that.
    pub(crate) fn is_far_back(&self) -> bool {
        self.token.is_none()
            && self.create_revision != 0
            && self.known_holder.ahead.is_some_and(|ahead| ahead > MAX_SHORT_QUEUE)
    }

    /// Whether the key is certainly gone, and nothing can bring it back.
    pub(crate) fn set_key_reusable(&self, gone: bool) {
        self.pooled_key.set_reusable(gone);
    }

    /// Whether what carries it may still be there, as far as is known here.
    pub(crate) fn may_exist(&self) -> bool {
        self.shared_lease.as_ref().is_none_or(|shared_lease| shared_lease.session.is_valid())
    }
}

impl ClaimState {
    pub(crate) fn of(claim: &Claim) -> &ClaimState {
        claim.store_state(ClaimState::default)
    }

    pub(crate) fn entry(&self) -> Option<QueueEntry> {
        self.locked().clone()
    }

    /// Notes where the claim stands from now on.
    pub(crate) fn set_entry(&self, entry: QueueEntry) {
        *self.locked() = Some(entry);
    }

    pub(crate) fn clear_entry(&self) {
        *self.locked() = None;
    }

    /// Changes the place, if the claim still has this one.
    pub(crate) fn update(&self, key: &[u8], change: impl FnOnce(&mut QueueEntry)) {
        if let Some(entry) = self.locked().as_mut().filter(|entry| entry.key == key) {
            change(entry);
        }
    }

    /// A call for this claim was cut off: it may be applied later.
    pub(crate) fn note_in_doubt(&self, in_doubt: bool) {
        self.in_doubt.fetch_or(in_doubt, Ordering::AcqRel);
    }

    /// The claim is being given back: that its key is gone is no loss any more.
    pub(crate) fn set_released(&self, given_back: bool) {
        self.released.store(given_back, Ordering::Release);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }

    fn locked(&self) -> MutexGuard<'_, Option<QueueEntry>> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
