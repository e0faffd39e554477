//! [`Membership`]: whose votes count, and whose tokens these are.

use super::roll::Roll;
use crate::words::{Error, ErrorKind, Realm};

/// Whose votes count, and whose tokens these are.
#[derive(Debug)]
pub(super) struct Membership {
    /// `None` where too few of those who have a place answer, or there are no tokens that it would matter for.
    pub(super) roll: Option<Roll>,
    pub(super) realm: Realm,
    /// Why there is no roll.
    pub(super) why: String,
}

impl Membership {
    pub(super) fn none(why: String) -> Membership {
        Membership { roll: None, realm: Realm::new("quorum:none"), why }
    }

    pub(super) fn of(realm: Realm) -> Membership {
        Membership { roll: None, realm, why: String::new() }
    }

    pub(super) fn by(roll: Roll) -> Membership {
        Membership { realm: roll.realm.clone(), roll: Some(roll), why: String::new() }
    }

    /// Why nothing can be granted with tokens.
    pub(super) fn refusal(&self) -> Error {
        Error::refused(ErrorKind::Unavailable, self.why.clone())
    }
}
