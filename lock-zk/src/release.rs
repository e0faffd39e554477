//! Releasing: a claim's entry is deleted, and with it a lease or a place among the waiters.

use lock_core::{Claim, Holder, ReleaseOutcome, Result};
use zookeeper_client::Client;

use crate::claim_state::ClaimState;
use crate::entry::QueueEntry;
use crate::error::CallError;
use crate::nodes::delete_node;
use crate::queue::read_queue;
use crate::session_client::SessionClient;
use crate::store::ZkStore;

/// The result of deleting a claim's entries.
struct Deletion {
    /// There was at least one.
    found: bool,
    /// One of them was seen to be the first in the queue.
    was_first: bool,
}

impl ZkStore {
    /// Releases the claim's lock, or withdraws its wish for it.
    pub(crate) async fn release_claim(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let state = ClaimState::of(claim);
        let Some(entry) = state.entry() else { return Ok(ReleaseOutcome::NotHeld) };
        let outcome = self.withdraw(claim, &entry).await;
        match &outcome {
            Err(failed) if failed.session_is_gone => entry.session().end(&self.clock),
            Err(_) => {}
            // The entry is kept: a request that was given up may still be in flight.
            Ok(_) => state.update(entry.session(), QueueEntry::deleted),
        }
        Ok(outcome?)
    }

    /// Deletes the nodes that the claim has, or may have.
    ///
    /// On the claim's own session no node can come after this: its requests are served in their
    /// order.
    pub(crate) async fn withdraw(&self, claim: &Claim, entry: &QueueEntry) -> Result<ReleaseOutcome, CallError> {
        let session = entry.session();
        if let Some(path) = entry.node_path() {
            session.forget_holder(&path);
        }
        let deleted = if session.may_be_alive() {
            let is_certain = !entry.is_in_doubt() && !claim.is_in_doubt();
            match entry.node_path().filter(|_| is_certain) {
                Some(path) => delete_entry(entry, session.client(), path).await,
                None => {
                    let (lock_path, holder) = (entry.lock_path().to_owned(), claim.holder());
                    Box::pin(session.client().call(move |client| delete_entries(client, lock_path, holder))).await
                }
            }
        } else {
            // The session is over here; any other session may delete its nodes.
            let (lock_path, holder) = (entry.lock_path().to_owned(), claim.holder());
            let delete = self.read(move |client| delete_entries(client, lock_path.clone(), holder));
            Box::pin(delete).await.map_err(Into::into)
        };
        if deleted.is_ok() && session.core_session().is_none() {
            session.end(&self.clock);
        }
        let deleted = deleted?;
        let was_held = deleted.found && (entry.is_granted() || deleted.was_first);
        Ok(if was_held { ReleaseOutcome::Held } else { ReleaseOutcome::NotHeld })
    }
}

/// Deletes the known node of an entry.
async fn delete_entry(entry: &QueueEntry, client: &SessionClient, path: String) -> Result<Deletion, CallError> {
    let found = client.call(|client| delete_node(client, path, "releasing")).await?;
    if let Some(sole) = entry.sole().filter(|_| found) {
        entry.session().uncontended.deleted(entry.lock_path(), sole);
    }
    Ok(Deletion { found, was_first: false })
}

/// Deletes all entries of this holder in the queue.
async fn delete_entries(client: Client, lock_path: String, holder: Holder) -> Result<Deletion, CallError> {
    let queue = read_queue(&client, &lock_path, true).await?;
    let mut deletion = Deletion { found: false, was_first: false };
    for position in queue.positions(holder) {
        let Some(entry_name) = queue.at(position) else { continue };
        if delete_node(client.clone(), format!("{lock_path}/{}", entry_name.node), "releasing").await? {
            deletion.found = true;
            deletion.was_first |= position == 0;
        }
    }
    Ok(deletion)
}
