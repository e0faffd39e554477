//! [`Place`]: where one claim stands; [`Notes`], what the store keeps with each claim.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Claim, Holder};

use crate::names::Names;
use crate::session::Carrier;

/// What the store keeps with each claim.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    place: Mutex<Option<Place>>,
    unclear: AtomicBool,
}

/// Where one claim stands, or may stand: it is noted before anything is written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// What the keys of the lock begin with.
    pub(crate) range: Vec<u8>,
    /// The claim's own key.
    pub(crate) key: Vec<u8>,
    /// The etcd lease of the key.
    pub(crate) lease: i64,
    pub(crate) ttl: Duration,
    /// The shared session that the lease belongs to; `None` for a lease of the claim's own.
    pub(crate) carrier: Option<Arc<Carrier>>,
    /// The key's create revision, once it is known; 0 before.
    pub(crate) created: i64,
    /// The revision of the first reading that found the key first in line.
    pub(crate) token: Option<u64>,
    /// The key whose end may make this claim's the first.
    pub(crate) waits_for: Option<Vec<u8>>,
}

impl Place {
    pub(crate) fn new(
        range: Vec<u8>,
        holder: Holder,
        lease: i64,
        ttl: Duration,
        carrier: Option<Arc<Carrier>>,
    ) -> Place {
        let key = Names::key(&range, lease, holder);
        Place { range, key, lease, ttl, carrier, created: 0, token: None, waits_for: None }
    }

    /// Whether what carries it may still be there, as far as is known here.
    pub(crate) fn may_stand(&self) -> bool {
        self.carrier.as_ref().is_none_or(|carrier| carrier.session.is_valid())
    }
}

impl Notes {
    pub(crate) fn of(claim: &Claim) -> &Notes {
        claim.notes(Notes::default)
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

    pub(crate) fn is_unclear(&self) -> bool {
        self.unclear.load(Ordering::Acquire)
    }

    fn locked(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
