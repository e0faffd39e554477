//! [`WithdrawalState`]: a withdrawal while it waits in the engine.

use super::call::Call;
use crate::contract::{Attempt, Claim, ReleaseOutcome};
use crate::words::{LockName, Moment};

/// What is left to do of a withdrawal, while it waits for its turn in the engine.
pub(crate) struct WithdrawalState {
    pub(super) claim: Claim,
    pub(super) calls: Calls,
    pub(super) began: Moment,
    /// Nobody waits for it: the store has answered, and what is repeated guards only against what may still come.
    pub(super) settled: bool,
}

/// What a withdrawal has under way.
#[derive(Default)]
pub(super) struct Calls {
    /// The request that was under way when its acquire was dropped. It is finished first: a release that is sent at
    /// once can overtake it.
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
