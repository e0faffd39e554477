//! [`Place`]: where one claim stands; [`Notes`], what the store keeps with each claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Claim, HeldBy};

use crate::queue::Key;
use crate::session::Carrier;
use crate::slots::Slot;
use crate::value::Value;

/// What the store keeps with each claim.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    place: Mutex<Option<Place>>,
    unclear: AtomicBool,
    given_back: AtomicBool,
}

/// Where one claim stands, or may stand: it is noted before anything is written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What the keys of the lock begin with.
    pub(crate) range: Vec<u8>,
    /// The claim's own key, for as long as it has it.
    slot: Arc<Slot>,
    pub(crate) key: Vec<u8>,
    /// What the key says if the lock is free, and what if the claim has to queue. No other claim writes either.
    pub(crate) free: Vec<u8>,
    pub(crate) queued: Vec<u8>,
    /// The etcd lease of the key.
    pub(crate) lease: i64,
    pub(crate) ttl: Duration,
    /// The shared session that the lease belongs to; `None` for a lease of the claim's own.
    pub(crate) carrier: Option<Arc<Carrier>>,
    /// The key's create revision, once it is known; 0 before.
    pub(crate) created: i64,
    /// The revision of the first reading that found the key first in line.
    pub(crate) token: Option<u64>,
    /// The revision of a release of this process that found the key first in line, until that is used.
    pub(crate) first_at: Option<i64>,
    /// The key whose end may make this claim's the first, and its create revision.
    pub(crate) waits_for: Option<(Vec<u8>, i64)>,
    /// What the waiter was last told of the holder, and of how many are ahead.
    pub(crate) told: HeldBy,
}

/// With more than this ahead, a waiter that looks again glances at the one before it only, and not at the whole line; and so many of one process are a crowd.
pub(crate) const FAR: u32 = 32;

impl Place {
    pub(crate) fn new(range: Vec<u8>, slot: Arc<Slot>, claim: &Claim, lease: i64, ttl: Duration) -> Place {
        Place {
            range,
            key: slot.key(),
            slot,
            free: Value::of(claim, false),
            queued: Value::of(claim, true),
            lease,
            ttl,
            carrier: None,
            created: 0,
            token: None,
            first_at: None,
            waits_for: None,
            told: HeldBy::default(),
        }
    }

    /// Put on a shared session.
    pub(crate) fn on(mut self, carrier: Arc<Carrier>) -> Place {
        carrier.load(self.key.len());
        self.carrier = Some(carrier);
        self
    }

    /// Whether this key is the claim's own. An operator who revokes a lock puts its key on another lease.
    pub(crate) fn is_own(&self, key: &Key) -> bool {
        key.lease == self.lease && (key.value == self.free || key.value == self.queued)
    }

    /// Whether this key is the claim's own, in the place in the line that the claim knows of.
    pub(crate) fn is_at(&self, key: &Key) -> bool {
        key.key == self.key && key.created == self.created && self.is_own(key)
    }

    /// Whom it waits for, if that is one far from the head of the line.
    pub(crate) fn waits_far(&self) -> Option<(&[u8], i64)> {
        let (key, created) = self.waits_for.as_ref()?;
        self.is_far().then_some((key, *created))
    }

    /// Whether it is a waiter that was far from the head of the line when it last saw that.
    pub(crate) fn is_far(&self) -> bool {
        self.token.is_none() && self.created != 0 && self.told.ahead.is_some_and(|ahead| ahead > FAR)
    }

    /// Whether the key is certainly gone, and nothing can bring it back.
    pub(crate) fn set_gone(&self, gone: bool) {
        self.slot.set_free(gone);
    }

    /// Whether what carries it may still be there, as far as is known here.
    pub(crate) fn may_stand(&self) -> bool {
        self.carrier.as_ref().is_none_or(|carrier| carrier.session.is_valid())
    }
}

impl Notes {
    pub(crate) fn of(claim: &Claim) -> &Notes {
        claim.store_state(Notes::default)
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.locked().clone()
    }

    /// Notes where the claim stands from now on.
    pub(crate) fn take_place(&self, place: Place) {
        *self.locked() = Some(place);
    }

    pub(crate) fn leave(&self) {
        *self.locked() = None;
    }

    /// Changes the place, if the claim still has this one.
    pub(crate) fn update(&self, key: &[u8], change: impl FnOnce(&mut Place)) {
        if let Some(place) = self.locked().as_mut().filter(|place| place.key == key) {
            change(place);
        }
    }

    /// A call for this claim was cut off: it may be applied later.
    pub(crate) fn set_unclear(&self, cut_off: bool) {
        self.unclear.fetch_or(cut_off, Ordering::AcqRel);
    }

    /// The claim is being given back: that its key is gone is no loss any more.
    pub(crate) fn set_given_back(&self, given_back: bool) {
        self.given_back.store(given_back, Ordering::Release);
    }

    pub(crate) fn is_given_back(&self) -> bool {
        self.given_back.load(Ordering::Acquire)
    }

    pub(crate) fn is_unclear(&self) -> bool {
        self.unclear.load(Ordering::Acquire)
    }

    fn locked(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
