//! [`FenceCondition`]: the condition under which a write inside ZooKeeper is fenced.

/// The condition under which a write inside ZooKeeper is fenced: that the holder's node is still there.
///
/// Put `check(path, version)` into the multi of the write, with whatever client. Then a holder whose session has ended, or
/// whose lock an operator has broken, cannot write, however late its request arrives. That needs no fence and no trust in
/// any clock.
///
/// ZooKeeper's check compares no more than the version, and every new node begins with the same; what is written into
/// a node raises it, as this store and Curator's `Revoker` do, and ends no lease. It is the *path* that makes the
/// check sound: it holds the holder's 128 random bits, so that no other node ever has it, and the holder's node once
/// gone does not come back. A node that was once the first in line stays the first while it is there. Breaking a
/// lock deletes the node, also where the lock stays blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FenceCondition {
    /// The path of the holder's node, from the root.
    pub path: String,
    /// What to check the version for: any.
    pub version: i32,
    /// The node's `czxid`, which is the fencing token: for resources outside, and for who wants to look.
    pub czxid: i64,
}

impl FenceCondition {
    /// What ZooKeeper takes for any version.
    pub(crate) const ANY_VERSION: i32 = -1;
}
