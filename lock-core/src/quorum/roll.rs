//! [`Roll`]: who has a place in a quorum.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::words::Realm;

/// Who has a place in a quorum. A place belongs to a member's *data*, by the realm that these are of, and is never taken
/// back or given again: who lost its data is somebody else, and has no place until there is a free one.
///
/// There are as many places as members, so that any two majorities of them share one that remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Roll {
    /// How many quorums the members have formed, with this one. A member leaves one for a later one, and never goes back.
    pub(super) generation: u64,
    /// The realm of the quorum's tokens, which no other quorum has.
    pub(super) realm: Realm,
    /// How many places there are.
    pub(super) of: usize,
    /// How many members formed it: a majority of these decides who joins.
    pub(super) founders: usize,
    /// Those who formed it, and then those who joined.
    pub(super) places: Vec<Realm>,
}

impl Roll {
    /// The roll of a quorum of so many members that these form.
    pub(super) fn formed(generation: u64, of: usize, founders: Vec<Realm>) -> Roll {
        Roll { generation, realm: Realm::fresh("quorum"), of, founders: founders.len(), places: founders }
    }

    /// The roll in which these have places as well, as long as there are any.
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

    /// How many places nobody has.
    pub(super) fn free(&self) -> usize {
        self.of.saturating_sub(self.places.len())
    }

    pub(super) fn is_founder(&self, member: &Realm) -> bool {
        self.places.iter().take(self.founders).any(|founder| founder == member)
    }

    /// Whether so many founders are a majority of them.
    pub(super) fn is_decided_by(&self, founders: usize) -> bool {
        founders > self.founders / 2
    }

    /// Which of two rolls is the later one, if they are of one quorum or of two generations.
    pub(super) fn age(&self, other: &Roll) -> Ordering {
        self.generation.cmp(&other.generation).then(self.places.len().cmp(&other.places.len()))
    }
}
