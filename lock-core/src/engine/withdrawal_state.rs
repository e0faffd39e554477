//! [`WithdrawalState`]: a withdrawal that waits in the engine.

use super::call::Call;
use crate::contract::{Attempt, Claim, ReleaseOutcome};
use crate::words::{LockName, Moment};

/// State of a withdrawal between two runs of it.
pub(crate) struct WithdrawalState {
    pub(super) claim: Claim,
    pub(super) calls: Calls,
    pub(super) began: Moment,
    /// The store has answered, and nobody waits for it: repeats guard only against late requests.
    pub(super) settled: bool,
}

/// Calls of a withdrawal that are in flight.
#[derive(Default)]
pub(super) struct Calls {
    /// The request that was in flight when its acquire was dropped. It is finished first, since a
    /// release that is sent at once could overtake it.
    pub(super) request: Option<Call<Attempt>>,
    pub(super) release: Option<Call<ReleaseOutcome>>,
}

impl WithdrawalState {
    pub(super) fn new(claim: Claim, request: Option<Call<Attempt>>, began: Moment) -> WithdrawalState {
        WithdrawalState { claim, calls: Calls { request, release: None }, began, settled: false }
    }

    pub(super) fn name(&self) -> &LockName {
        self.claim.name()
    }
}
