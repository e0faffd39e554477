//! Renewals, and the deletion of orphaned keys.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, LeaseTimeToLiveOptions, Txn, TxnOp};
use futures_util::future::try_join_all;
use lock_core::kit::{Heartbeat, SessionBackend};
use lock_core::{Claim, Clock, RenewalOutcome, Result, Session, async_trait};

use crate::backend::Backend;
use crate::call::CallKind;
use crate::claim_state::ClaimState;
use crate::heartbeat::HeartbeatOutcome;
use crate::lease_grant::{grant, whole_seconds};
use crate::lock_key::LockKey;
use crate::queue_entry::QueueEntry;
use crate::shared_lease::SharedLease;

impl Backend {
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

#[async_trait]
impl SessionBackend for Backend {
    type Handle = SharedLease;
    /// A key.
    type Entry = Vec<u8>;

    fn session_ttl(&self, ttl: Duration) -> Duration {
        Duration::from_secs(whole_seconds(ttl))
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<SharedLease>> {
        let pending = Session::start(&self.clock);
        let (lease_id, granted) = grant(&self.members, ttl).await?;
        let lease = SharedLease::new(pending.established(lease_id as u64, granted), lease_id);
        self.members.identity().register_session(&lease.session);
        Ok(Arc::new(lease))
    }

    fn granted_entry(&self, lease: &Arc<SharedLease>, claim: &Claim) -> Option<Vec<u8>> {
        entry_on(lease, claim).filter(|entry| entry.token.is_some()).map(|entry| entry.key)
    }

    async fn heartbeat(
        &self,
        lease: &Arc<SharedLease>,
        clock: &Clock,
        granted: Vec<(Claim, Vec<u8>)>,
    ) -> Result<Heartbeat<Vec<u8>>> {
        let HeartbeatOutcome::Alive { since, ttl } = self.heartbeat.send(clock, lease.id, &lease.stream).await? else {
            return Ok(Heartbeat::Gone);
        };
        let Some(keys) = self.read_lease_keys(lease.id).await? else { return Ok(Heartbeat::Gone) };
        lease.set_key_bytes(keys.iter().map(Vec::len).sum());
        let entries = Arc::new(keys.into_iter().collect());
        Ok(Heartbeat::Alive { since, ttl, granted: Arc::new(granted), entries })
    }

    /// The list comes from a leader that may lag a little, so each missing key is read again.
    async fn confirm_lost(&self, _: &Arc<SharedLease>, missing: Vec<(Claim, &Vec<u8>)>) -> Result<Vec<Claim>> {
        let missing: Vec<_> = missing.into_iter().filter(|(claim, _)| !ClaimState::of(claim).is_released()).collect();
        let found = self.read_keys(CallKind::Heartbeat, missing.iter().map(|(_, key)| &key[..])).await?;
        let is_lost = |claim: &Claim, found: Option<LockKey>| {
            let entry = ClaimState::of(claim).entry();
            !found.is_some_and(|key| entry.is_some_and(|entry| entry.key == key.key && entry.owns(&key)))
        };
        let lost = missing.into_iter().zip(found).filter_map(|((claim, _), key)| is_lost(&claim, key).then_some(claim));
        Ok(lost.collect())
    }

    /// Keys are reused, so the claims are listed again after each key was read: a key that a claim
    /// has by then is kept, and a claim that takes one later creates it anew.
    async fn renew_single(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(RenewalOutcome::NotHeld) };
        match self.heartbeat.send(clock, entry.lease_id, &Mutex::default()).await? {
            HeartbeatOutcome::Alive { since, ttl } if self.exists(&entry).await? => {
                Ok(RenewalOutcome::HeldSince(since, ttl))
            }
            _ => Ok(RenewalOutcome::NotHeld),
        }
    }

    async fn delete_orphans(&self, lease: &Arc<SharedLease>, keys: &HashSet<Vec<u8>>) -> Result<()> {
        let (tombstones, claimed) = (self.layout.tombstone_prefix(), claimed_keys(lease));
        let is_orphan = |key: &&Vec<u8>| !claimed.contains(*key) && !key.starts_with(tombstones.as_bytes());
        let orphans = keys.iter().filter(is_orphan).map(|key| &key[..]);
        let found = self.read_keys(CallKind::Release, orphans).await?;
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
}

/// The claim's entry, if it is on this lease.
fn entry_on(lease: &SharedLease, claim: &Claim) -> Option<QueueEntry> {
    ClaimState::of(claim).entry().filter(|entry| entry.lease_id == lease.id)
}

/// The keys that claims of this session own.
fn claimed_keys(lease: &SharedLease) -> HashSet<Vec<u8>> {
    lease.session.claims().iter().filter_map(|claim| entry_on(lease, claim)).map(|entry| entry.key).collect()
}
