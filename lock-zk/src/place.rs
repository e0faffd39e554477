//! [`Place`]: where one claim stands; [`Notes`], what the store keeps with each claim.

use std::sync::{Arc, Mutex};

use lock_core::Claim;

use crate::emptied::Alone;
use crate::session::{Carrier, locked};

/// What the store keeps with each claim.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    place: Mutex<Option<Place>>,
}

/// Where one claim stands, or may stand: it is noted before anything is written.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The node of the lock.
    pub(crate) folder: String,
    pub(crate) carrier: Arc<Carrier>,
    /// The claim's own node, once it is known.
    pub(crate) node: Option<Node>,
    /// The creation of a node brought no answer yet, and may never: there may be one.
    pub(crate) in_doubt: bool,
    /// The claim was told that it holds the lock.
    pub(crate) granted: bool,
    /// Its node, where it was the only one in the line when it was made.
    pub(crate) alone: Option<Alone>,
    /// Since when it holds it, by the wall clock, in seconds, where its node does not say so yet.
    pub(crate) unmarked: Option<u64>,
    /// The path of the node whose end may make this claim's the first.
    pub(crate) waits_for: Option<String>,
}

/// A claim's own node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Its name in the folder.
    pub(crate) name: String,
    /// The transaction that made it: the fencing token.
    pub(crate) czxid: i64,
}

impl Place {
    pub(crate) fn new(folder: String, carrier: Arc<Carrier>) -> Place {
        Place {
            folder,
            carrier,
            node: None,
            in_doubt: false,
            granted: false,
            alone: None,
            unmarked: None,
            waits_for: None,
        }
    }

    /// The path of a node in the folder.
    pub(crate) fn path(&self, node: &str) -> String {
        format!("{}/{node}", self.folder)
    }

    /// The path of the own node, if it is known.
    pub(crate) fn own(&self) -> Option<String> {
        self.node.as_ref().map(|node| self.path(&node.name))
    }
}

impl Notes {
    pub(crate) fn of(claim: &Claim) -> &Notes {
        claim.store_state(Notes::default)
    }

    pub(crate) fn place(&self) -> Option<Place> {
        locked(&self.place).clone()
    }

    /// Notes where the claim stands from now on.
    pub(crate) fn take_place(&self, place: Place) {
        *locked(&self.place) = Some(place);
    }

    pub(crate) fn leave(&self) -> Option<Place> {
        locked(&self.place).take()
    }

    /// Changes the place, if the claim still has one on this session.
    pub(crate) fn update(&self, carrier: &Arc<Carrier>, change: impl FnOnce(&mut Place)) {
        if let Some(place) = locked(&self.place).as_mut().filter(|place| Arc::ptr_eq(&place.carrier, carrier)) {
            change(place);
        }
    }
}
