//! [`ClaimState`]: the state that the store keeps with a claim.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_core::Claim;
use lock_core::kit::locked;

use super::connection::LockConnection;

/// The state that the store keeps with a claim.
#[derive(Debug, Default)]
pub(super) struct ClaimState {
    connection: Mutex<Option<LockConnection>>,
    granted: AtomicBool,
}

impl ClaimState {
    pub(super) fn of(claim: &Claim) -> &ClaimState {
        claim.store_state(ClaimState::default)
    }

    /// The connection that the claim's lock is on, or is requested on.
    pub(super) fn connection(&self) -> Option<LockConnection> {
        locked(&self.connection).clone()
    }

    pub(super) fn set_connection(&self, connection: &LockConnection) {
        *locked(&self.connection) = Some(connection.clone());
    }

    pub(super) fn is_granted(&self) -> bool {
        self.granted.load(Ordering::Acquire)
    }

    pub(super) fn set_granted(&self, granted: bool) {
        self.granted.store(granted, Ordering::Release);
    }
}
