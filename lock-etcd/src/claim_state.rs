//! [`ClaimState`]: the store's state of one claim.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_core::Claim;
use lock_core::kit::locked;

use crate::queue_entry::QueueEntry;

/// The store's state of one claim.
#[derive(Debug, Default)]
pub(crate) struct ClaimState {
    entry: Mutex<Option<QueueEntry>>,
    in_doubt: AtomicBool,
    released: AtomicBool,
}

impl ClaimState {
    pub(crate) fn of(claim: &Claim) -> &ClaimState {
        claim.store_state(ClaimState::default)
    }

    pub(crate) fn entry(&self) -> Option<QueueEntry> {
        locked(&self.entry).clone()
    }

    pub(crate) fn set_entry(&self, entry: QueueEntry) {
        *locked(&self.entry) = Some(entry);
    }

    pub(crate) fn clear_entry(&self) {
        *locked(&self.entry) = None;
    }

    /// Changes the entry, if the claim still has the one with this key.
    pub(crate) fn update(&self, key: &[u8], change: impl FnOnce(&mut QueueEntry)) {
        if let Some(entry) = locked(&self.entry).as_mut().filter(|entry| entry.key == key) {
            change(entry);
        }
    }

    /// Notes that a call for this claim may still be applied. A claim that was in doubt once
    /// remains so.
    pub(crate) fn note_in_doubt(&self, in_doubt: bool) {
        self.in_doubt.fetch_or(in_doubt, Ordering::AcqRel);
    }

    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt.load(Ordering::Acquire)
    }

    /// Notes that the claim is being released: a missing key is no loss any more.
    pub(crate) fn set_released(&self, released: bool) {
        self.released.store(released, Ordering::Release);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }
}
