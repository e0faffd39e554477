//! [`FenceCondition`]: the condition under which a write inside ZooKeeper is fenced.

use lock_core::{Holder, LockName, Result};

use crate::record::HolderRecord;
use crate::store::ZkStore;

/// The condition under which a write inside ZooKeeper is fenced: the holder's node still exists.
///
/// Put `check(path, version)` into the multi of the write, with any client. Then a holder whose
/// session has ended, or whose lock an operator has broken, cannot write, however late its request
/// arrives. That needs no fence and no trust in any clock.
///
/// ZooKeeper's check compares no more than the version, and every new node begins with the same
/// one. A write to a node raises it, as this store and Curator's `Revoker` do, and ends no lease.
/// It is the *path* that makes the check sound: it contains the holder's 128 random bits, so that
/// no other node ever has it, and the holder's node once gone does not come back. A node that was
/// once the first in the queue stays the first as long as it exists. Breaking a lock deletes the
/// node, also if the lock stays blocked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct FenceCondition {
    /// The path of the holder's node, from the root.
    pub path: String,
    /// The version to check for: any.
    pub version: i32,
    /// The node's `czxid`, which is the fencing token: for resources outside of ZooKeeper, and for
    /// display.
    pub czxid: i64,
}

impl FenceCondition {
    /// ZooKeeper's number for any version.
    const ANY_VERSION: i32 = -1;
}

impl ZkStore {
    /// The condition for writes inside ZooKeeper by the holder of this lock, as data for any
    /// client; `None` if this holder does not hold it.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](lock_core::LockStore::inspect).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn fence_condition(&self, name: &LockName, holder: Holder) -> Result<Option<FenceCondition>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let is_revoked = HolderRecord::decode(&head.data).is_some_and(|record| record.revoked);
        let is_holder = head.holder() == Some(holder) && !is_revoked;
        let version = FenceCondition::ANY_VERSION;
        let condition = FenceCondition { path: head.path, version, czxid: head.stat.czxid };
        Ok(is_holder.then_some(condition))
    }
}
