//! [`Finding`]: a fact about a server that an operator should know.

use std::fmt;

/// A fact about a server that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The subject.
    pub kind: FindingKind,
    /// One line for people: what was found, where, and what it means.
    pub text: String,
}

/// The subject of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FindingKind {
    /// The server does not keep every commit through a power loss, or the table not through a
    /// crash.
    NotPersisted,
    /// A server could take over that lags behind this one.
    AsynchronousStandby,
    /// A pooler that shares connections is in the way, so that waiters are not notified of
    /// releases.
    Pooler,
    /// The server is older than any on which the store was tested.
    Old,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
