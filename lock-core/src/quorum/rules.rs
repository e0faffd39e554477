//! [`Rules`] of a vote, as a value.

use std::sync::Arc;

use super::membership::Membership;
use crate::words::FencingToken;

/// The rules of one attempt, as a value: the number of members, and which of them count.
#[derive(Clone)]
pub(super) struct Rules {
    pub(super) members: usize,
    pub(super) majority: usize,
    pub(super) has_tokens: bool,
    pub(super) membership: Arc<Membership>,
}

impl Rules {
    /// Number of members without which there is no majority.
    pub(super) fn too_many(&self) -> usize {
        self.members - self.majority + 1
    }

    /// The quorum's token with this number.
    pub(super) fn token(&self, number: u64) -> FencingToken {
        FencingToken::new(self.membership.realm.clone(), number)
    }

    /// The number of a member's token, if the member has a place in the quorum.
    pub(super) fn number(&self, token: &FencingToken) -> Option<u64> {
        let has_place = self.membership.roll.as_ref().is_some_and(|roll| roll.has(token.realm()));
        has_place.then(|| token.number())
    }
}
