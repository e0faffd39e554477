//! [`ClaimState`]: the state that the store keeps with each claim.

use std::sync::{Arc, Mutex};

use lock_core::Claim;
use lock_core::kit::locked;

use crate::entry::QueueEntry;
use crate::session::ZkSession;

/// The state that the store keeps with each claim: its entry in the queue, if it has or may have
/// one.
#[derive(Debug, Default)]
pub(crate) struct ClaimState {
    entry: Mutex<Option<QueueEntry>>,
}

impl ClaimState {
    pub(crate) fn of(claim: &Claim) -> &ClaimState {
        claim.store_state(ClaimState::default)
    }

    /// A copy of the claim's entry.
    pub(crate) fn entry(&self) -> Option<QueueEntry> {
        locked(&self.entry).clone()
    }

    pub(crate) fn set_entry(&self, entry: QueueEntry) {
        *locked(&self.entry) = Some(entry);
    }

    pub(crate) fn take_entry(&self) -> Option<QueueEntry> {
        locked(&self.entry).take()
    }

    /// Changes the entry, if the claim still has one on this session.
    pub(crate) fn update(&self, session: &Arc<ZkSession>, change: impl FnOnce(&mut QueueEntry)) {
        if let Some(entry) = locked(&self.entry).as_mut().filter(|entry| Arc::ptr_eq(entry.session(), session)) {
            change(entry);
        }
    }
}
