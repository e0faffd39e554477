//! Releases, and the withdrawal of waiters.

use etcd_client::Txn;
use lock_core::{Claim, Effect, Error, ErrorKind, ReleaseOutcome, Result};

use crate::backend::Backend;
use crate::call::{CallError, CallKind};
use crate::claim_state::ClaimState;
use crate::queue_entry::QueueEntry;
use crate::release_batcher;
use crate::release_queue::ReleaseReply;
use crate::released_entry::{ReleasedEntry, parse_next_head};
use crate::transactions;

impl Backend {
    pub(crate) async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        self.members.identity().unregister_claim(claim);
        let state = ClaimState::of(claim);
        state.set_released(true);
        let Some(entry) = state.entry() else { return Ok(ReleaseOutcome::NotHeld) };
        // A request that arrives after the release must create nothing. A lease of the claim's own
        // is revoked instead.
        let needs_tombstone = (claim.is_in_doubt() || state.is_in_doubt()) && entry.shared_lease.is_some();
        let tombstone = needs_tombstone.then(|| self.layout.tombstone(entry.lease_id, claim.holder()));
        self.withdraw_entry(claim, &entry, tombstone.as_deref()).await
    }

    /// Deletes the claim's entry. With `tombstone`, a request that arrives later creates nothing.
    pub(crate) async fn withdraw_entry(
        &self,
        claim: &Claim,
        entry: &QueueEntry,
        tombstone: Option<&[u8]>,
    ) -> Result<ReleaseOutcome> {
        self.watches.remove_entry(entry);
        let deletion = self.watches.start_deletion(&entry.range, &entry.key);
        let txn = transactions::release(entry, tombstone, deletion.is_some());
        let reply = match self.send_release(entry, txn).await {
            Ok(reply) => reply,
            // The lease has ended with all its keys, and no request can create another on it.
            Err(failed) if failed.lease_is_gone => {
                entry.set_key_reusable(true);
                return Ok(ReleaseOutcome::NotHeld);
            }
            Err(failed) => return Err(failed.error),
        };
        if let (Some(deletion), Some(head)) = (deletion, parse_next_head(&reply.response)) {
            deletion.finish(reply.revision, head);
        }
        if entry.shared_lease.is_none() {
            Box::pin(self.revoke(entry.lease_id)).await;
        }
        let released = ReleasedEntry::parse(entry, &reply.response);
        // A known key that was not found may be on another lease, where an operator has put it.
        let is_gone = released != ReleasedEntry::Absent || entry.create_revision == 0;
        entry.set_key_reusable(is_gone && !claim.is_in_doubt() && !ClaimState::of(claim).is_in_doubt());
        match released {
            ReleasedEntry::Held => Ok(ReleaseOutcome::Held),
            // An earlier attempt may have deleted it, and its reply was lost.
            ReleasedEntry::Absent if reply.in_doubt && entry.token.is_some() => {
                let text = format!("\"{}\" is released; whether it was held until now is unknown", claim.name());
                Err(Error::new(ErrorKind::TimedOut, Effect::Unknown, text))
            }
            ReleasedEntry::Waiting | ReleasedEntry::Absent => Ok(ReleaseOutcome::NotHeld),
        }
    }

    /// Sends a release: at once if a permit is free, else in a batch.
    async fn send_release(&self, entry: &QueueEntry, txn: Txn) -> Result<ReleaseReply, CallError> {
        match self.members.try_acquire_permit(CallKind::Release).map_err(CallError::of)? {
            Some(permit) => self.transact_with(&permit, "releasing", txn).await.map(ReleaseReply::from),
            None => Box::pin(release_batcher::submit(&self.members, &entry.range, txn)).await,
        }
    }
}
