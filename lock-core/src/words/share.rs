//! [`Share`]: the part of a name that a claim asks for.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::offer::{Offer, Offers};

/// The part of a name that a claim asks for.
///
/// Each share has a [limit](Share::limit): the number of holders that it admits, itself counted. A
/// name never has more holders than the smallest limit among them. So a reader and a writer exclude
/// each other, readers do not, and nobody holds beside more others than it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Share {
    /// All of it: a mutex.
    #[default]
    Lock,
    /// All of it, as the writer of a read-write lock. It excludes as [`Lock`](Share::Lock) does; the
    /// two differ only in layouts that other clients use too.
    Write,
    /// Together with all who only read.
    Read,
    /// One of this number of permits.
    Permit(NonZeroU32),
}

/// A space of names: in different spaces, equal names are different names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Space {
    /// The names of locks and read-write locks.
    #[default]
    Locks,
    /// The names of semaphores.
    Permits,
}

impl Share {
    /// The number of holders that it admits, itself counted: 1, the number of permits, or
    /// [`u32::MAX`] for readers.
    pub const fn limit(self) -> u32 {
        match self {
            Share::Lock | Share::Write => 1,
            Share::Read => u32::MAX,
            Share::Permit(permits) => permits.get(),
        }
    }

    /// True if it admits no other holder.
    pub const fn is_exclusive(self) -> bool {
        self.limit() == 1
    }

    /// The space of its names.
    pub const fn space(self) -> Space {
        match self {
            Share::Lock | Share::Write | Share::Read => Space::Locks,
            Share::Permit(_) => Space::Permits,
        }
    }

    /// The offers that a store needs for it. Every store grants [`Lock`](Share::Lock) and
    /// [`Write`](Share::Write).
    pub const fn needs(self) -> Offers {
        match self {
            Share::Lock | Share::Write => Offers::NONE,
            Share::Read => Offers::of(&[Offer::Read]),
            Share::Permit(_) => Offers::of(&[Offer::Permits]),
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Lock => f.pad("lock"),
            Share::Write => f.pad("write"),
            Share::Read => f.pad("read"),
            Share::Permit(permits) => f.pad(&format!("permit of {permits}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_admits_as_many_holders_as_its_limit() {
        let three = Share::Permit(NonZeroU32::new(3).expect("three"));
        assert_eq!([Share::Lock, Share::Write, Share::Read, three].map(Share::limit), [1, 1, u32::MAX, 3]);
        assert!(Share::Permit(NonZeroU32::MIN).is_exclusive() && !three.is_exclusive() && !Share::Read.is_exclusive());
        assert_eq!((three.space(), Share::Read.space()), (Space::Permits, Space::Locks));
    }

    #[test]
    fn a_share_is_a_word_in_configuration_and_output() {
        let three = Share::Permit(NonZeroU32::new(3).expect("three"));
        let text = serde_json::to_string(&[Share::Lock, Share::Read, three]).expect("it is text");
        assert_eq!(text, r#"["lock","read",{"permit":3}]"#);
        assert_eq!(serde_json::from_str::<Vec<Share>>(&text).expect("it is read"), [Share::Lock, Share::Read, three]);
        assert_eq!(three.to_string(), "permit of 3");
    }
}
