//! [`QueueEntry`]: the entry of one claim in the queue of its lock.

use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, HeldBy};

use crate::holder_record::encode_claim;
use crate::key_pool::PooledKey;
use crate::lock_key::LockKey;
use crate::shared_lease::SharedLease;

/// The entry of one claim in the queue of its lock: a key on an etcd lease. It is noted before
/// anything is written, so the key may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct QueueEntry {
    /// The common prefix of the lock's keys.
    pub(crate) range: Vec<u8>,
    /// Reserves the key for this claim.
    pooled_key: Arc<PooledKey>,
    pub(crate) key: Vec<u8>,
    /// The key's value if the lock is free, and if the claim has to queue. No other claim writes
    /// either.
    pub(crate) value_if_free: Vec<u8>,
    pub(crate) value_if_queued: Vec<u8>,
    /// The etcd lease of the key.
    pub(crate) lease_id: i64,
    pub(crate) ttl: Duration,
    /// The shared lease, if `lease_id` belongs to one; `None` for a lease of the claim's own.
    pub(crate) shared_lease: Option<Arc<SharedLease>>,
    /// The key's create revision; 0 while it is unknown.
    pub(crate) create_revision: i64,
    /// The revision of the first reading that found the key at the head of the queue.
    pub(crate) token: Option<u64>,
    /// The revision of a release of this process that found the key at the head, until it is used.
    pub(crate) handed_over_at: Option<i64>,
    /// The key whose deletion may make this claim the holder, and its create revision.
    pub(crate) predecessor: Option<(Vec<u8>, i64)>,
    /// The holder that the waiter knows, with the number of keys ahead.
    pub(crate) known_holder: HeldBy,
}

/// Maximum length of a short queue. A waiter with more keys ahead polls its predecessor only, and
/// not the whole queue. If more claims of one process wait, later ones go [behind its
/// last](crate::transactions::enqueue_behind).
pub(crate) const MAX_SHORT_QUEUE: u32 = 32;

impl QueueEntry {
    pub(crate) fn new(
        range: Vec<u8>,
        pooled_key: Arc<PooledKey>,
        claim: &Claim,
        lease_id: i64,
        ttl: Duration,
    ) -> QueueEntry {
        QueueEntry {
            range,
            key: pooled_key.key(),
            pooled_key,
            value_if_free: encode_claim(claim, false),
            value_if_queued: encode_claim(claim, true),
            lease_id,
            ttl,
            shared_lease: None,
            create_revision: 0,
            token: None,
            handed_over_at: None,
            predecessor: None,
            known_holder: HeldBy::default(),
        }
    }

    /// Puts the entry on a shared lease.
    pub(crate) fn on_shared_lease(mut self, shared_lease: Arc<SharedLease>) -> QueueEntry {
        shared_lease.add_key_bytes(self.key.len());
        self.shared_lease = Some(shared_lease);
        self
    }

    /// True if this key is the claim's own. An operator who revokes a lock puts its key on another
    /// lease.
    pub(crate) fn owns(&self, key: &LockKey) -> bool {
        key.lease_id == self.lease_id && (key.value == self.value_if_free || key.value == self.value_if_queued)
    }

    /// True if this key is the claim's own, with the create revision that the claim knows.
    pub(crate) fn is_current(&self, key: &LockKey) -> bool {
        key.key == self.key && key.create_revision == self.create_revision && self.owns(key)
    }

    /// The predecessor, if the entry is far back.
    pub(crate) fn distant_predecessor(&self) -> Option<(&[u8], i64)> {
        let (key, create_revision) = self.predecessor.as_ref()?;
        self.is_far_back().then_some((key, *create_revision))
    }

    /// True for a waiter that had more than [`MAX_SHORT_QUEUE`] keys ahead when it last read the
    /// queue.
    pub(crate) fn is_far_back(&self) -> bool {
        let is_waiting = self.token.is_none() && self.create_revision != 0;
        is_waiting && self.known_holder.ahead.is_some_and(|ahead| ahead > MAX_SHORT_QUEUE)
    }

    /// Notes whether the key is certainly deleted, with no call in flight that could create it
    /// again.
    pub(crate) fn set_key_reusable(&self, reusable: bool) {
        self.pooled_key.set_reusable(reusable);
    }

    /// False if the session of its lease has ended.
    pub(crate) fn may_exist(&self) -> bool {
        self.shared_lease.as_ref().is_none_or(|lease| lease.session.is_valid())
    }
}
