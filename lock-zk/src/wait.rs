//! Waiting: a waiter watches the entry before its own, and no other.

use lock_core::{Claim, Result};
use zookeeper_client::{Client, Error as ZkError};

use crate::claim_state::ClaimState;
use crate::error::classify;
use crate::store::ZkStore;

impl ZkStore {
    /// Waits for the end of the entry before the claim's own.
    pub(crate) async fn wait_for_predecessor(&self, claim: &Claim) -> Result<()> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(()) };
        let Some(predecessor) = entry.predecessor().map(str::to_owned) else { return Ok(()) };
        // That node has no children and never will: this watch notifies of its end, and of nothing
        // else.
        let watch = |client: Client| async move {
            match client.list_and_watch_children(&predecessor).await {
                Ok((_, watcher)) => Ok(Some(watcher)),
                Err(ZkError::NoNode) => Ok(None),
                Err(failure) => Err(classify("waiting", failure, false)),
            }
        };
        if let Some(watcher) = entry.session().client().call(watch).await? {
            drop(watcher.changed().await);
        }
        Ok(())
    }
}
