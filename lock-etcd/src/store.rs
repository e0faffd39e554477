//! [`EtcdStore`]: the contract on transactions, leases and watches.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, Txn, TxnOp, TxnResponse};
use futures_util::future::{join, join_all, try_join_all};
use lock_core::{
    Attempt, Beat, BreakMode, Claim, Clock, ClockKind, Contention, Effect, Error, ErrorKind, Eviction, Expiry, Fault,
    Faults, FencingToken, Guarantees, HeldBy, Lease, LockName, LockStore, LossReason, Realm, ReleaseOutcome, Renewal,
    RenewalBatch, RenewalOutcome, Result, Retention, TokenRaiser, WaitStyle, async_trait,
};

use crate::call::{CallError, CallKind, CallReply};
use crate::connections::CallPermit;
use crate::heartbeat::{Heartbeat, HeartbeatOutcome};
use crate::holder_record::HolderRecord;
use crate::key_layout::KeyLayout;
use crate::key_pool::KeyPool;
use crate::members::Members;
use crate::queue_entry::{ClaimState, QueueEntry};
use crate::realm_mark::RealmMark;
use crate::release_batcher;
use crate::release_queue::ReleaseReply;
use crate::session_pool::{SessionPool, SharedLease, grant};
use crate::transactions::{self, IfHeld, LockKey, QueueView, ReleasedEntry};
use crate::watches::Watches;
use crate::{EtcdConfig, FenceCondition};

/// Locks in etcd. The crate's documentation has the layout.
///
/// Handles are independent, as those of two processes are; all locks of one handle share its sessions and watches.
pub struct EtcdStore {
    pub(crate) members: Arc<Members>,
    pub(crate) layout: KeyLayout,
    clock: Clock,
    /// Whose data these are; another realm is begun by an operator only.
    data: RwLock<Arc<RealmMark>>,
    voters: usize,
    sessions: Arc<SessionPool>,
    heartbeat: Heartbeat,
    watches: Watches,
    slots: Arc<KeyPool>,
}

/// A waiter looks again this often even if no hint came, since the watch may hang at a member that does.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// How many keys are read in one call: etcd takes transactions of up to 128 operations.
const MAX_KEYS_PER_READ: usize = 64;

impl EtcdStore {
    /// Connects, and reads who the members are. Sessions are stamped with `clock`: the locks must go by the same one.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig), [`Unavailable`](ErrorKind::Unavailable),
    /// [`TimedOut`](ErrorKind::TimedOut), [`Denied`](ErrorKind::Denied) or [`Protocol`](ErrorKind::Protocol).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed.
    pub async fn connect(config: EtcdConfig, clock: &Clock) -> Result<EtcdStore> {
        let members = Arc::new(Members::new(&config)?);
        let names = KeyLayout::new(config.prefix);
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let listed = members.call(CallKind::Request, "connecting", list).await?;
        let (one_cluster, data) =
            join(members.check_one_cluster(listed.member), RealmMark::load_or_create(&members, &names)).await;
        one_cluster?;
        let data = RwLock::new(Arc::new(data?));
        let list = listed.value;
        let voters = list.members().iter().filter(|member| !member.is_learner()).count();
        Ok(EtcdStore {
            clock: clock.clone(),
            data,
            voters,
            sessions: SessionPool::new(members.clone(), clock.clone()),
            heartbeat: Heartbeat { members: members.clone(), key: names.tombstone_prefix().into_bytes() },
            watches: Watches::new(members.clone()),
            slots: KeyPool::new(),
            members,
            layout: names,
        })
    }

    /// What a cluster of so many voting members promises.
    pub(crate) fn guarantees_of(voters: usize) -> Guarantees {
        let mut records = Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver]);
        if voters >= 3 {
            records = records | Fault::MinorityLoss.into();
        }
        let tokens = records | Faults::of(&[Fault::ClockStep, Fault::Pause]);
        Guarantees::NONE
            .records_survive(records)
            .tokens_survive(tokens)
            .expiry(Expiry::Session(ClockKind::Monotonic))
            .waiting(WaitStyle::Queued)
    }

    /// The condition for writes inside etcd by the holder of this lock, as data for any client; `None` if this holder does
    /// not hold it.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](LockStore::inspect).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn fence_condition(&self, name: &LockName, holder: lock_core::Holder) -> Result<Option<FenceCondition>> {
        let head = self.read_head(name).await?;
        let is_holder = |key: &LockKey| {
            HolderRecord::decode(&key.value).is_some_and(|value| value.holder == holder && !value.revoked)
        };
        let proof = |key: LockKey| FenceCondition {
            key: key.key,
            create_revision: key.create_revision,
            mod_revision: key.mod_revision,
        };
        Ok(head.filter(is_holder).map(proof))
    }

    /// A transaction that is safe to repeat.
    pub(crate) async fn transact(
        &self,
        kind: CallKind,
        action: &str,
        txn: Txn,
    ) -> Result<CallReply<TxnResponse>, CallError> {
        let permit = self.members.acquire_permit(kind, action).await.map_err(CallError::of)?;
        self.transact_with(&permit, action, txn).await
    }

    async fn transact_with(
        &self,
        permit: &CallPermit,
        action: &str,
        txn: Txn,
    ) -> Result<CallReply<TxnResponse>, CallError> {
        let call = |client: Arc<Client>| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.members.call_with(permit, action, call).await
    }

    fn realm_mark(&self) -> Arc<RealmMark> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The claim's place; where it has none, or what carried it has ended, a new one.
    async fn ensure_entry(&self, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        if let Some(entry) = state.entry() {
            if entry.may_exist() {
                // Boxed, here and elsewhere, so that the future of a request for a lock that is free stays small.
                return Box::pin(self.resume_entry(claim, state, entry)).await;
            }
            // Its session is not believed in any more, yet its key may stand for a while.
            Box::pin(self.remove_entry(claim, &entry, None)).await?;
        }
        self.create_entry(claim, state).await
    }

    async fn create_entry(&self, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        let range = self.layout.range(claim.name());
        let entry = if claim.is_fixed() {
            let (lease, ttl) = Box::pin(grant(&self.members, claim.ttl())).await?;
            self.members.identity().register_claim(claim);
            QueueEntry::new(range.clone(), self.slots.take(&range), claim, lease, ttl)
        } else {
            let shared_lease = self.sessions.for_ttl(claim.ttl()).await?;
            let slot = self.slots.take(&range);
            QueueEntry::new(range, slot, claim, shared_lease.id, shared_lease.session.ttl())
                .on_shared_lease(shared_lease)
        };
        state.set_entry(entry.clone());
        if let Some(shared_lease) = &entry.shared_lease {
            // From here on what is written for the claim is no orphan.
            shared_lease.session.carry(claim);
        }
        Ok(entry)
    }

    /// A place that the claim had before. A lease of its own starts anew, as the contract asks.
    async fn resume_entry(&self, claim: &Claim, state: &ClaimState, entry: QueueEntry) -> Result<QueueEntry> {
        if let Some(shared_lease) = &entry.shared_lease {
            shared_lease.session.carry(claim);
            return Ok(entry);
        }
        match self.heartbeat.send(&self.clock, entry.lease_id, &Mutex::default()).await? {
            HeartbeatOutcome::Alive { .. } => Ok(entry),
            HeartbeatOutcome::Gone => self.create_entry(claim, state).await,
        }
    }

    /// One look at the line, after taking a place in it where that is wanted and was not done before.
    async fn try_request(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &mut QueueEntry,
    ) -> Result<QueueView, CallError> {
        if let Some(revision) = entry.handed_over_at.take() {
            state.update(&entry.key, |noted| noted.handed_over_at = None);
            return Ok(transactions::view_of_head(entry, revision));
        }
        // What is asked depends on who is in line by the time of asking.
        let permit =
            self.members.acquire_permit(CallKind::Request, "asking for a lock").await.map_err(CallError::of)?;
        if entry.create_revision != 0 {
            let seen = Box::pin(self.read_queue(&permit, entry)).await?;
            if seen.own.as_ref().is_some_and(|own| own.create_revision == entry.create_revision) {
                return Ok(seen);
            }
            // The key is gone, and the place in the line with it.
            (entry.create_revision, entry.token) = (0, None);
            state.update(&entry.key, |noted| (noted.create_revision, noted.token) = (0, None));
        }
        if claim.queues()
            && !state.is_in_doubt()
            && let Some(seen) = Box::pin(self.enqueue_behind(&permit, claim, state, entry)).await?
        {
            return Ok(seen);
        }
        // A lock that nobody waits for is likely to be free: it is not worth asking for a place in its line at once, unless
        // the answer to such a request was lost before.
        if claim.queues() && !state.is_in_doubt() && !self.watches.is_watched(&entry.range) {
            let seen = self.acquire(&permit, claim, state, entry, IfHeld::Nothing).await?;
            if seen.own.is_some() {
                return Ok(seen);
            }
        }
        let otherwise = if claim.queues() { IfHeld::Enqueue } else { IfHeld::Read };
        Box::pin(self.acquire(&permit, claim, state, entry, otherwise)).await
    }

    /// Looks again where a claim stands.
    async fn read_queue(&self, permit: &CallPermit, entry: &QueueEntry) -> Result<QueueView, CallError> {
        let data = self.realm_mark();
        let transact = async |txn| {
            let looked = self.transact_with(permit, "looking at a lock", txn).await?.value;
            data.check(&self.members, &looked).map_err(CallError::of)?;
            Ok::<_, CallError>(looked)
        };
        let known = entry.distant_predecessor().map(|(key, created)| (key.to_vec(), created));
        let other = self.watches.predecessor_of(entry).filter(|other| known.is_some() && known.as_ref() != Some(other));
        for (before, created) in known.into_iter().chain(other) {
            let glanced = transact(transactions::read_neighbours(entry, &data, &before)).await?;
            if let Some(seen) = transactions::parse_unchanged(entry, created, &glanced) {
                return Ok(seen);
            }
        }
        let looked = transact(transactions::read_queue(entry, &data)).await?;
        transactions::parse_view(entry, &looked).map_err(CallError::of)
    }

    /// Takes a place behind a crowd of this process, if there is one.
    async fn enqueue_behind(
        &self,
        permit: &CallPermit,
        claim: &Claim,
        state: &ClaimState,
        entry: &mut QueueEntry,
    ) -> Result<Option<QueueView>, CallError> {
        let Some((before, created, told)) = self.watches.last_of_long_queue(&entry.range) else { return Ok(None) };
        let (withdrawn, data) = (self.layout.tombstone(entry.lease_id, claim.holder()), self.realm_mark());
        let follow = transactions::enqueue_behind(entry, &data, &before, &withdrawn);
        let followed = self.transact_write(permit, state, &data, follow).await?;
        let Some(seen) = transactions::parse_enqueued(entry, created, &followed) else { return Ok(None) };
        (entry.create_revision, entry.known_holder) = (seen.revision, told);
        state.update(&entry.key, |noted| noted.create_revision = seen.revision);
        // Where the one before has gone, who is before now is for a whole look to say.
        if seen.predecessor.is_some() { Ok(Some(seen)) } else { self.read_queue(permit, entry).await.map(Some) }
    }

    /// A transaction that may take a place.
    async fn transact_write(
        &self,
        permit: &CallPermit,
        state: &ClaimState,
        data: &RealmMark,
        txn: Txn,
    ) -> Result<TxnResponse, CallError> {
        let asked = self.transact_with(permit, "asking for a lock", txn).await;
        match &asked {
            Ok(called) => state.note_in_doubt(called.in_doubt),
            Err(failed) => state.note_in_doubt(failed.error.may_have_taken_effect()),
        }
        let asked = asked?.value;
        data.check(&self.members, &asked).map_err(CallError::of)?;
        Ok(asked)
    }

    async fn acquire(
        &self,
        permit: &CallPermit,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        otherwise: IfHeld,
    ) -> Result<QueueView, CallError> {
        let (withdrawn, data) = (self.layout.tombstone(entry.lease_id, claim.holder()), self.realm_mark());
        let enter = transactions::acquire(entry, &data, otherwise, &withdrawn);
        let entered = self.transact_write(permit, state, &data, enter).await?;
        transactions::parse_view(entry, &entered).map_err(CallError::of)
    }

    /// What `seen` means for the claim.
    fn to_attempt(&self, claim: &Claim, state: &ClaimState, entry: &QueueEntry, seen: QueueView) -> Attempt {
        let own = seen.own.as_ref().filter(|own| entry.owns(own));
        let first = own.is_some_and(|own| seen.head.as_ref().is_some_and(|head| head.key == own.key));
        let mut token = None;
        let waits_for = seen.predecessor.as_ref().filter(|_| own.is_some()).or(seen.head.as_ref());
        state.update(&entry.key, |noted| {
            noted.create_revision = own.map_or(0, |own| own.create_revision);
            noted.predecessor = waits_for.map(|key| (key.key.clone(), key.create_revision));
            if first {
                token = Some(*noted.token.get_or_insert(seen.revision.unsigned_abs()));
            }
        });
        let session = entry.shared_lease.as_ref().map(|shared_lease| shared_lease.session.clone());
        if let Some(token) = token {
            let token = Some(FencingToken::new(self.realm(), token));
            return Attempt::Granted(match session {
                // Etcd syncs every write before it answers.
                Some(session) => Lease::on_session(session, token, Retention::Complete),
                None => Lease::new(entry.ttl, token, Retention::Complete),
            });
        }
        // A glance does not see the head of the line.
        let mut by = seen.head.as_ref().map_or_else(|| entry.known_holder.clone(), |head| self.describe_holder(head));
        by.ahead = seen.ahead.or(entry.known_holder.ahead);
        state.update(&entry.key, |noted| noted.known_holder = by.clone());
        // A place without a session is kept by asking again.
        let look_again = if session.is_some() { POLL_INTERVAL.min(entry.ttl) } else { entry.ttl / 3 };
        let waiting = Contention::new(by, look_again).with_version(seen.revision.unsigned_abs());
        Attempt::Held(match session {
            Some(session) if claim.queues() => waiting.on_session(session),
            _ => waiting,
        })
    }

    /// Who holds a lock, as its key says.
    pub(crate) fn describe_holder(&self, head: &LockKey) -> HeldBy {
        let Some(value) = HolderRecord::decode(&head.value) else {
            let mut by = HeldBy::default();
            by.info = Some(crate::operator::foreign_holder(head));
            return by;
        };
        let mut by = HeldBy::holder(value.holder);
        by.held_for = value.held_for();
        by.revoked = value.revoked;
        // Who had to queue was granted the lock at a revision that its key does not show.
        let shown = !value.queued && !value.revoked;
        by.token = shown.then(|| FencingToken::new(self.realm(), head.create_revision.unsigned_abs()));
        by.info = Some(value.info);
        by
    }

    /// Gives the place up; `mark` is left for a request that comes late.
    async fn remove_entry(&self, claim: &Claim, entry: &QueueEntry, mark: Option<&[u8]>) -> Result<ReleaseOutcome> {
        self.watches.remove_entry(entry);
        let leaving = self.watches.start_deletion(&entry.range, &entry.key);
        let leave = transactions::release(entry, mark, leaving.is_some());
        let answered = match self.send_release(entry, leave).await {
            Ok(answered) => answered,
            // The mark's lease has ended: what was on it is gone with it, and nothing can come.
            Err(failed) if failed.lease_is_gone => {
                entry.set_key_reusable(true);
                return Ok(ReleaseOutcome::NotHeld);
            }
            Err(failed) => return Err(failed.error),
        };
        if let (Some(leaving), Some(head)) = (leaving, transactions::parse_next_head(&answered.response)) {
            leaving.finish(answered.revision, head);
        }
        if entry.shared_lease.is_none() {
            Box::pin(self.revoke(entry.lease_id)).await;
        }
        let left = transactions::parse_released(entry, &answered.response);
        // Where its key was not found, an operator may have put it on another lease.
        let is_gone = left != ReleasedEntry::Absent || entry.create_revision == 0;
        entry.set_key_reusable(is_gone && !claim.is_in_doubt() && !ClaimState::of(claim).is_in_doubt());
        match left {
            ReleasedEntry::Held => Ok(ReleaseOutcome::Held),
            // A try before this one may have found it, and its answer was lost.
            ReleasedEntry::Absent if answered.in_doubt && entry.token.is_some() => {
                let text = format!("\"{}\" is released; whether it was held until now is unknown", claim.name());
                Err(Error::new(ErrorKind::TimedOut, Effect::Unknown, text))
            }
            ReleasedEntry::Waiting | ReleasedEntry::Absent => Ok(ReleaseOutcome::NotHeld),
        }
    }

    /// Sends a release: at once if a turn is free, else with others.
    async fn send_release(&self, entry: &QueueEntry, leave: Txn) -> Result<ReleaseReply, CallError> {
        match self.members.try_acquire_permit(CallKind::Release).map_err(CallError::of)? {
            Some(permit) => self.transact_with(&permit, "releasing", leave).await.map(ReleaseReply::from),
            None => Box::pin(release_batcher::submit(&self.members, &entry.range, leave)).await,
        }
    }

    /// Ends an etcd lease that nobody needs any more. If it fails, the lease ends by itself.
    pub(crate) async fn revoke(&self, lease: i64) {
        let revoke = |client: Arc<Client>| async move { client.lease_client().revoke(lease).await };
        if let Err(failed) = self.members.call(CallKind::Release, "ending a lease", revoke).await {
            tracing::debug!(error = %failed.error, "a lease that nobody needs was left to end by itself");
        }
    }

    async fn renew_one(&self, batch: &RenewalBatch, renewal: &Renewal) -> Result<()> {
        match renewal.of() {
            Beat::Lease(claim) => {
                let answer = self.renew_lease(batch.clock(), claim).await?;
                renewal.answer(answer);
            }
            Beat::Session(session) => {
                let shared_lease = self.sessions.shared_lease(session);
                let shared_lease =
                    shared_lease.ok_or_else(|| crate::error::unexpected_reply("BUG: a session of another store"))?;
                self.renew_session(batch.clock(), renewal, &shared_lease).await?;
            }
        }
        Ok(())
    }

    async fn renew_lease(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(RenewalOutcome::NotHeld) };
        match self.heartbeat.send(clock, entry.lease_id, &Mutex::default()).await? {
            HeartbeatOutcome::Alive { since, ttl } if self.key_exists(&entry).await? => {
                Ok(RenewalOutcome::HeldSince(since, ttl))
            }
            _ => Ok(RenewalOutcome::NotHeld),
        }
    }

    /// One round of a session: a heartbeat, and a look at what is still on it. The look comes before the answer, so that
    /// a lease whose key was broken is lost before the session is believed in any longer.
    async fn renew_session(&self, clock: &Clock, renewal: &Renewal, shared_lease: &SharedLease) -> Result<()> {
        let ended = || {
            shared_lease.session.end(LossReason::SessionEnded);
            renewal.answer(RenewalOutcome::NotHeld);
        };
        // Before the reading: a claim that is granted during it may be missing there.
        let granted = carried_entries(shared_lease, |entry| entry.token.is_some());
        let HeartbeatOutcome::Alive { since, ttl } =
            self.heartbeat.send(clock, shared_lease.id, &shared_lease.stream).await?
        else {
            ended();
            return Ok(());
        };
        let Some(keys) = self.read_lease_keys(shared_lease.id).await? else {
            ended();
            return Ok(());
        };
        shared_lease.set_key_bytes(keys.iter().map(Vec::len).sum());
        let keys: HashSet<_> = keys.into_iter().collect();
        // The list comes from a leader that may lag a little, so each loss is read again: it is final.
        let is_missing =
            |(claim, entry): &&(Claim, QueueEntry)| !keys.contains(&entry.key) && !ClaimState::of(claim).is_released();
        let missing: Vec<_> = granted.iter().filter(is_missing).collect();
        let found = self.read_keys(CallKind::Heartbeat, missing.iter().map(|(_, entry)| &entry.key[..])).await?;
        for ((claim, entry), key) in missing.into_iter().zip(found) {
            if !key.is_some_and(|key| entry.owns(&key)) {
                renewal.not_held(claim);
            }
        }
        renewal.answer(RenewalOutcome::HeldSince(since, ttl));
        let marks = self.layout.tombstone_prefix();
        let claimed = claimed_keys(shared_lease);
        let is_orphan = |key: &&Vec<u8>| !claimed.contains(*key) && !key.starts_with(marks.as_bytes());
        self.delete_orphans(shared_lease, keys.iter().filter(is_orphan).map(|key| &key[..])).await
    }

    /// Deletes the keys that no claim owns. A key is used again, so the claims are asked after the keys were read: whoever
    /// has one by then is left alone, and who takes it later makes it anew.
    async fn delete_orphans<'a>(&self, shared_lease: &SharedLease, keys: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let found = self.read_keys(CallKind::Release, keys).await?;
        let claimed = claimed_keys(shared_lease);
        let is_orphan = |key: &LockKey| key.lease_id == shared_lease.id && !claimed.contains(&key.key);
        let delete = |key: LockKey| async move {
            let unchanged = Compare::create_revision(&key.key[..], CompareOp::Equal, key.create_revision);
            let delete = Txn::new().when([unchanged]).and_then([TxnOp::delete(key.key, None)]);
            self.transact(CallKind::Release, "deleting what nobody claims", delete).await.map(drop)
        };
        try_join_all(found.into_iter().flatten().filter(is_orphan).map(delete)).await?;
        Ok(())
    }

    /// The keys on a lease; `None` if there is no such lease.
    async fn read_lease_keys(&self, lease: i64) -> Result<Option<Vec<Vec<u8>>>> {
        let read = |client: Arc<Client>| async move {
            let keys = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
            client.lease_client().time_to_live(lease, Some(keys)).await
        };
        let read = self.members.call(CallKind::Heartbeat, "reading what a session has", read).await?.value;
        Ok((read.ttl() > 0).then(|| read.keys().to_vec()))
    }

    /// These keys, in the order of asking, some tens in each call.
    async fn read_keys<'a>(
        &self,
        kind: CallKind,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<Option<LockKey>>> {
        let keys: Vec<_> = keys.collect();
        let read = |keys: &[&[u8]]| {
            let get = keys.iter().map(|key| TxnOp::get(*key, None)).collect::<Vec<_>>();
            async move {
                let read = self.transact(kind, "reading keys", Txn::new().and_then(get)).await?.value;
                Ok::<_, Error>(transactions::parse_keys(&read))
            }
        };
        let read = try_join_all(keys.chunks(MAX_KEYS_PER_READ).map(read)).await?.concat();
        if read.len() != keys.len() {
            return Err(crate::error::unexpected_reply("a transaction of etcd has other answers than questions"));
        }
        Ok(read)
    }

    /// Whether this claim's key is there, and its own.
    async fn key_exists(&self, entry: &QueueEntry) -> Result<bool> {
        let found = self.read_keys(CallKind::Heartbeat, [&entry.key[..]].into_iter()).await?;
        Ok(found.into_iter().flatten().any(|key| entry.owns(&key)))
    }
}

/// The keys that claims of this session own.
fn claimed_keys(shared_lease: &SharedLease) -> HashSet<Vec<u8>> {
    carried_entries(shared_lease, |_| true).into_iter().map(|(_, entry)| entry.key).collect()
}

/// The claims of a session with their places, as far as these are such.
fn carried_entries(shared_lease: &SharedLease, such: impl Fn(&QueueEntry) -> bool) -> Vec<(Claim, QueueEntry)> {
    let entry = |claim: Claim| {
        let entry = ClaimState::of(&claim).entry().filter(|entry| entry.lease_id == shared_lease.id && such(entry))?;
        Some((claim, entry))
    };
    shared_lease.session.claims().into_iter().filter_map(entry).collect()
}

#[async_trait]
impl LockStore for EtcdStore {
    fn guarantees(&self) -> Guarantees {
        EtcdStore::guarantees_of(self.voters)
    }

    fn realm(&self) -> Realm {
        self.realm_mark().realm.clone()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let state = ClaimState::of(claim);
        state.set_released(false);
        for last in [false, true] {
            let mut entry = self.ensure_entry(claim, state).await?;
            match self.try_request(claim, state, &mut entry).await {
                Ok(seen) => return Ok(self.to_attempt(claim, state, &entry, seen)),
                Err(failed) if failed.lease_is_gone && !last => {
                    // The server has ended it, and with it all that was on it; a new one is opened.
                    entry.set_key_reusable(true);
                    if let Some(shared_lease) = &entry.shared_lease {
                        shared_lease.session.end(LossReason::SessionEnded);
                    }
                    state.clear_entry();
                }
                Err(failed) => return Err(failed.error),
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, "etcd ended two sessions in a row at once"))
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let state = ClaimState::of(claim);
        let Some(entry) = state.entry() else { return Ok(()) };
        let seen = i64::try_from(held.version).unwrap_or(i64::MAX);
        let next = self.watches.wait_for_deletion(&entry, seen).await?;
        if let Some(next) = next.filter(|next| entry.is_current(&next.head)) {
            // One transaction has read that the key stands and is the first, as a look of its own would.
            state.update(&entry.key, |noted| {
                noted.handed_over_at = Some(next.revision).filter(|_| noted.create_revision == entry.create_revision)
            });
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        let renew = |renewal| async move {
            if let Err(error) = self.renew_one(batch, renewal).await {
                batch.fail(error);
            }
        };
        join_all(batch.iter().map(renew)).await;
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        self.members.identity().unregister_claim(claim);
        let state = ClaimState::of(claim);
        state.set_released(true);
        let Some(entry) = state.entry() else { return Ok(ReleaseOutcome::NotHeld) };
        let unclear = (claim.is_in_doubt() || state.is_in_doubt()) && entry.shared_lease.is_some();
        let mark = unclear.then(|| self.layout.tombstone(entry.lease_id, claim.holder()));
        self.remove_entry(claim, &entry, mark.as_deref()).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        self.read_holder(name).await
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.list_held(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.evict(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        let new = self.realm_mark().begin_realm(&self.members).await?;
        let realm = new.realm.clone();
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(realm)
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.members)
            .field("prefix", &self.layout.prefix())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
