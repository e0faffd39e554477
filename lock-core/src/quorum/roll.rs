//! [`Roll`]: the members that have a place in a quorum.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::words::Realm;

/// The members that have a place in a quorum. A place belongs to a member's *data*, identified by
/// their realm, and is never taken back or given again: a member that lost its data is a different
/// member, and has no place until there is a free one.
///
/// There are as many places as members, so that any two majorities share a member that remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// Number of quorums that the members have formed, including this one. A member leaves a quorum
    /// for a later one, and never goes back.
    pub(super) generation: u64,
    /// The realm of the quorum's tokens, which no other quorum has.
    pub(super) realm: Realm,
    /// Number of places.
    pub(super) of: usize,
    /// Number of founders. A majority of them decides on joins.
    pub(super) founders: usize,
    /// The founders, followed by the members that joined.
    pub(super) places: Vec<Realm>,
}

impl Roll {
    /// The roll of a new quorum of `of` members with these founders.
    pub(super) fn formed(generation: u64, of: usize, founders: Vec<Realm>) -> Roll {
        Roll { generation, realm: Realm::fresh("quorum"), of, founders: founders.len(), places: founders }
    }

    /// The roll in which these members have places as well, as far as there are free ones.
    pub(super) fn joined_by(&self, joining: &[Realm]) -> Roll {
        let mut next = self.clone();
        for member in joining {
            if next.free() > 0 && !next.has(member) {
                next.places.push(member.clone());
            }
        }
        next
    }

    pub(super) fn has(&self, member: &Realm) -> bool {
        self.places.contains(member)
    }

    /// Number of free places.
    pub(super) fn free(&self) -> usize {
        self.of.saturating_sub(self.places.len())
    }

    pub(super) fn is_founder(&self, member: &Realm) -> bool {
        self.places.iter().take(self.founders).any(|founder| founder == member)
    }

    /// True if this many founders are a majority of the founders.
    pub(super) fn is_decided_by(&self, founders: usize) -> bool {
        founders > self.founders / 2
    }

    /// Order of two rolls by age, if they are of one quorum or of two generations.
    pub(super) fn age(&self, other: &Roll) -> Ordering {
        self.generation.cmp(&other.generation).then(self.places.len().cmp(&other.places.len()))
    }
}
