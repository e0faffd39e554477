//! [`Membership`]: the members whose votes count, and the realm of the tokens.

use super::roll::Roll;
use crate::words::{Error, ErrorKind, Realm};

/// The members whose votes count, and the realm of the tokens.
#[derive(Debug)]
pub(super) struct Membership {
    /// `None` if too few members with a place answer, or if there are no tokens, for which alone it
    /// matters.
    pub(super) roll: Option<Roll>,
    pub(super) realm: Realm,
    /// Reason why there is no roll.
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

    /// Error of a request for which no token can be issued.
    pub(super) fn refusal(&self) -> Error {
        Error::refused(ErrorKind::Unavailable, self.why.clone())
    }
}
