//! Renewal rounds, and the deletion of orphaned keys.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use etcd_client::{Client, Compare, CompareOp, LeaseTimeToLiveOptions, Txn, TxnOp};
use futures_util::future::try_join_all;
use lock_core::{Beat, Claim, Clock, LossReason, Renewal, RenewalBatch, RenewalOutcome, Result};

use crate::backend::Backend;
use crate::call::CallKind;
use crate::claim_state::ClaimState;
use crate::error::unexpected_reply;
use crate::heartbeat::HeartbeatOutcome;
use crate::lock_key::LockKey;
use crate::queue_entry::QueueEntry;
use crate::shared_lease::SharedLease;

impl Backend {
    pub(crate) async fn renew(&self, batch: &RenewalBatch, renewal: &Renewal) -> Result<()> {
        match renewal.of() {
            Beat::Lease(claim) => {
                let outcome = self.renew_own_lease(batch.clock(), claim).await?;
                renewal.answer(outcome);
            }
            Beat::Session(session) => {
                let lease = self.sessions.shared_lease(session);
                let lease = lease.ok_or_else(|| unexpected_reply("BUG: a session of another store"))?;
                self.renew_shared_lease(batch.clock(), renewal, &lease).await?;
            }
        }
        Ok(())
    }

    async fn renew_own_lease(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(RenewalOutcome::NotHeld) };
        match self.heartbeat.send(clock, entry.lease_id, &Mutex::default()).await? {
            HeartbeatOutcome::Alive { since, ttl } if self.exists(&entry).await? => {
                Ok(RenewalOutcome::HeldSince(since, ttl))
            }
            _ => Ok(RenewalOutcome::NotHeld),
        }
    }

    /// One round of a session: a heartbeat, and a read of the keys on its lease. The claims whose
    /// key is missing are lost before the renewal is answered, so that the answer does not extend
    /// them.
    async fn renew_shared_lease(&self, clock: &Clock, renewal: &Renewal, lease: &SharedLease) -> Result<()> {
        let end = || {
            lease.session.end(LossReason::SessionEnded);
            renewal.answer(RenewalOutcome::NotHeld);
        };
        // Listed before the read: the key of a claim that is granted during the read may be missing
        // in it.
        let granted = carried_entries(lease, |entry| entry.token.is_some());
        let HeartbeatOutcome::Alive { since, ttl } = self.heartbeat.send(clock, lease.id, &lease.stream).await? else {
            end();
            return Ok(());
        };
        let Some(keys) = self.read_lease_keys(lease.id).await? else {
            end();
            return Ok(());
        };
        lease.set_key_bytes(keys.iter().map(Vec::len).sum());
        let keys: HashSet<_> = keys.into_iter().collect();
        self.lose_missing(renewal, &granted, &keys).await?;
        renewal.answer(RenewalOutcome::HeldSince(since, ttl));
        let tombstones = self.layout.tombstone_prefix();
        let claimed = claimed_keys(lease);
        let is_orphan = |key: &&Vec<u8>| !claimed.contains(*key) && !key.starts_with(tombstones.as_bytes());
        self.delete_orphans(lease, keys.iter().filter(is_orphan).map(|key| &key[..])).await
    }

    /// Loses the granted claims whose key is not among `keys`. The list comes from a leader that
    /// may lag a little, and a loss is final, so each missing key is read again.
    async fn lose_missing(
        &self,
        renewal: &Renewal,
        granted: &[(Claim, QueueEntry)],
        keys: &HashSet<Vec<u8>>,
    ) -> Result<()> {
        let is_missing =
            |(claim, entry): &&(Claim, QueueEntry)| !keys.contains(&entry.key) && !ClaimState::of(claim).is_released();
        let missing: Vec<_> = granted.iter().filter(is_missing).collect();
        let found = self.read_keys(CallKind::Heartbeat, missing.iter().map(|(_, entry)| &entry.key[..])).await?;
        for ((claim, entry), key) in missing.into_iter().zip(found) {
            if !key.is_some_and(|key| entry.owns(&key)) {
                renewal.not_held(claim);
            }
        }
        Ok(())
    }

    /// Deletes the keys that no claim owns. Keys are reused, so the claims are listed again after
    /// the read: a key that a claim has by then is kept, and a claim that takes one later creates
    /// it anew.
    async fn delete_orphans<'a>(&self, lease: &SharedLease, keys: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let found = self.read_keys(CallKind::Release, keys).await?;
        let claimed = claimed_keys(lease);
        let is_orphan = |key: &LockKey| key.lease_id == lease.id && !claimed.contains(&key.key);
        let delete = |key: LockKey| async move {
            let unchanged = Compare::create_revision(&key.key[..], CompareOp::Equal, key.create_revision);
            let delete = Txn::new().when([unchanged]).and_then([TxnOp::delete(key.key, None)]);
            self.transact(CallKind::Release, "deleting what nobody claims", delete).await.map(drop)
        };
        try_join_all(found.into_iter().flatten().filter(is_orphan).map(delete)).await?;
        Ok(())
    }

    /// The keys on a lease; `None` if there is no such lease.
    async fn read_lease_keys(&self, lease_id: i64) -> Result<Option<Vec<Vec<u8>>>> {
        let read = |client: Arc<Client>| async move {
            let with_keys = LeaseTimeToLiveOptions::new().with_keys();
            client.lease_client().time_to_live(lease_id, Some(with_keys)).await
        };
        let reply = self.members.call(CallKind::Heartbeat, "reading what a session has", read).await?.value;
        Ok((reply.ttl() > 0).then(|| reply.keys().to_vec()))
    }

    /// True if the claim's key exists and is its own.
    async fn exists(&self, entry: &QueueEntry) -> Result<bool> {
        let found = self.read_keys(CallKind::Heartbeat, [&entry.key[..]].into_iter()).await?;
        Ok(found.into_iter().flatten().any(|key| entry.owns(&key)))
    }
}

/// The keys that claims of this session own.
fn claimed_keys(lease: &SharedLease) -> HashSet<Vec<u8>> {
    carried_entries(lease, |_| true).into_iter().map(|(_, entry)| entry.key).collect()
}

/// The claims of a session whose entry on its lease satisfies `condition`.
fn carried_entries(lease: &SharedLease, condition: impl Fn(&QueueEntry) -> bool) -> Vec<(Claim, QueueEntry)> {
    let carried = |claim: Claim| {
        let entry = ClaimState::of(&claim).entry().filter(|entry| entry.lease_id == lease.id && condition(entry))?;
        Some((claim, entry))
    };
    lease.session.claims().into_iter().filter_map(carried).collect()
}
