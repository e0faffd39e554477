//! [`FenceCondition`]: the condition that fences a write inside etcd.

/// The condition that fences a write inside etcd: the lock's key exists and is unchanged.
///
/// Put both comparisons into the transaction of the write, with any client: `create(key) =
/// create_revision` and `mod(key) = mod_revision`. Then a holder whose lease has ended, or whose
/// lock an operator has broken, cannot commit, however late its write arrives. This needs no fence
/// and no trust in any clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FenceCondition {
    /// The lock's key in etcd, with its prefix.
    pub key: Vec<u8>,
    /// The create revision that the key must have.
    pub create_revision: i64,
    /// The modification revision that the key must have. Breaking a lock changes it, and keeps the
    /// create revision.
    pub mod_revision: i64,
}
