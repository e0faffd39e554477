//! [`Proof`]: the condition under which a write inside etcd is fenced.

/// The condition under which a write inside etcd is fenced: that the lock's key is still there, as it was.
///
/// Put both comparisons into the transaction of the write, with whatever client: `create(key) = create_revision` and
/// `mod(key) = mod_revision`. Then a holder whose lease has ended, or whose lock an operator has broken, cannot commit,
/// however late its write arrives. That needs no fence and no trust in any clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FenceCondition {
    /// The lock's key in etcd, with its prefix.
    pub key: Vec<u8>,
    /// What the key's create revision must be.
    pub create_revision: i64,
    /// What the key's modification revision must be: breaking a lock changes it, and leaves the create revision.
    pub mod_revision: i64,
}
