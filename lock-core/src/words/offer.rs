//! [`Offer`]: what a store can do beside granting a name to one holder, and sets of it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::set::set_of;

/// One ability of a store beside granting a name to one holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
#[repr(u8)]
pub enum Offer {
    /// Readers hold a name together: [`Share::Read`](crate::Share::Read).
    Read,
    /// A limited number of holders hold a name together: [`Share::Permit`](crate::Share::Permit).
    Permits,
    /// A writer becomes a reader in one step.
    Downgrade,
    /// A reader that is alone becomes a writer in one step.
    Upgrade,
    /// A holder shows a value to everybody, for as long as it holds.
    Publish,
    /// A released name stays blocked for a while, also after the holder's process has ended.
    Linger,
}

impl Offer {
    /// Every offer, in the order in which tables show them.
    pub const ALL: [Offer; 6] =
        [Offer::Read, Offer::Permits, Offer::Downgrade, Offer::Upgrade, Offer::Publish, Offer::Linger];
}

impl fmt::Display for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Offer::Read => "readers",
            Offer::Permits => "permits",
            Offer::Downgrade => "downgrade",
            Offer::Upgrade => "upgrade",
            Offer::Publish => "published values",
            Offer::Linger => "linger",
        })
    }
}

set_of! {
    /// A set of [`Offer`]s.
    Offers of Offer, "offer"
}
