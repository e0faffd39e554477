//! [`Memory`]: what the clones of a [`MemoryStore`](super::MemoryStore) share.

use std::sync::Mutex;

use super::state::{LeaseEnd, State};
use crate::contract::{Claim, RenewalOutcome};
use crate::kit::Sessions;
use crate::sync::locked;
use crate::words::{Clock, Realm};

/// What the clones of a store share.
///
/// Lock order: `state`, then `realm`.
pub(super) struct Memory {
    pub(super) clock: Clock,
    pub(super) realm: Mutex<Realm>,
    pub(super) state: Mutex<State>,
    /// The sessions, if sessions carry the leases.
    pub(super) sessions: Option<Sessions<Memory>>,
}

impl Memory {
    /// Renews a lease with a TTL of its own.
    pub(super) fn renew_lease(&self, claim: &Claim) -> RenewalOutcome {
        let now = self.clock.now();
        let mut state = locked(&self.state);
        state.expire(claim.name(), now);
        match state.held_mut(claim) {
            Some(held) => {
                held.until = LeaseEnd::Moment(now.after(claim.ttl()));
                RenewalOutcome::HeldFor(claim.ttl())
            }
            None => RenewalOutcome::NotHeld,
        }
    }
}
