//! Requests for locks, and waiting for them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use etcd_client::{Txn, TxnResponse};
use lock_core::{Attempt, Claim, Contention, Error, ErrorKind, FencingToken, Lease, LossReason, Result, Retention};

use crate::backend::Backend;
use crate::call::{CallError, CallKind};
use crate::claim_state::ClaimState;
use crate::connections::CallPermit;
use crate::heartbeat::HeartbeatOutcome;
use crate::lease_grant::grant;
use crate::queue_entry::QueueEntry;
use crate::queue_view::QueueView;
use crate::realm_mark::RealmMark;
use crate::transactions::{self, IfHeld};

/// Poll interval of a waiter without a notification: the member of its watch may hang.
const POLL_INTERVAL: Duration = Duration::from_secs(10);

impl Backend {
    pub(crate) async fn request(self: &Arc<Self>, claim: &Claim) -> Result<Attempt> {
        let state = ClaimState::of(claim);
        state.set_released(false);
        for is_last in [false, true] {
            let mut entry = self.ensure_entry(claim, state).await?;
            match self.try_request(claim, state, &mut entry).await {
                Ok(view) => return Ok(self.to_attempt(claim, state, &entry, view)),
                Err(failed) if failed.lease_is_gone && !is_last => {
                    // The server has ended the lease with all its keys. The next entry gets a new
                    // one.
                    entry.set_key_reusable(true);
                    if let Some(lease) = &entry.shared_lease {
                        lease.session.end(LossReason::SessionEnded);
                    }
                    state.clear_entry();
                }
                Err(failed) => return Err(failed.error),
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, "etcd ended two sessions in a row at once"))
    }

    /// Waits until the lock may have become free for this claim.
    pub(crate) async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let state = ClaimState::of(claim);
        let Some(entry) = state.entry() else { return Ok(()) };
        let seen = i64::try_from(held.version).unwrap_or(i64::MAX);
        let next = self.watches.wait_for_deletion(&entry, seen).await?;
        if let Some(next) = next.filter(|next| entry.is_current(&next.head)) {
            // One transaction has read that the key exists and is the head, as the claim's own
            // reading would.
            state.update(&entry.key, |noted| {
                noted.handed_over_at = Some(next.revision).filter(|_| noted.create_revision == entry.create_revision)
            });
        }
        Ok(())
    }

    /// The claim's entry. If it has none, or its session has ended, a new one.
    async fn ensure_entry(self: &Arc<Self>, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        if let Some(entry) = state.entry() {
            if entry.may_exist() {
                // Boxed, here and below, so that the future of a request for a free lock stays
                // small.
                return Box::pin(self.resume_entry(claim, state, entry)).await;
            }
            // The session has ended here, but its key may still exist.
            Box::pin(self.withdraw_entry(claim, &entry, None)).await?;
        }
        self.new_entry(claim, state).await
    }

    async fn new_entry(self: &Arc<Self>, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        let range = self.layout.range(claim.name());
        let entry = if claim.is_fixed() {
            let (lease_id, ttl) = Box::pin(grant(&self.members, claim.ttl())).await?;
            self.members.identity().register_claim(claim);
            QueueEntry::new(range.clone(), self.key_pool.take(&range), claim, lease_id, ttl)
        } else {
            let lease = self.sessions.for_ttl(self, claim.ttl()).await?;
            let pooled_key = self.key_pool.take(&range);
            QueueEntry::new(range, pooled_key, claim, lease.id, lease.session.ttl()).on_shared_lease(lease)
        };
        state.set_entry(entry.clone());
        if let Some(lease) = &entry.shared_lease {
            // From here on the claim's key is no orphan.
            lease.session.carry(claim);
        }
        Ok(entry)
    }

    /// The entry that the claim had before. A lease of its own is renewed, as the contract asks.
    async fn resume_entry(
        self: &Arc<Self>,
        claim: &Claim,
        state: &ClaimState,
        entry: QueueEntry,
    ) -> Result<QueueEntry> {
        if let Some(lease) = &entry.shared_lease {
            lease.session.carry(claim);
            return Ok(entry);
        }
        match self.heartbeat.send(&self.clock, entry.lease_id, &Mutex::default()).await? {
            HeartbeatOutcome::Alive { .. } => Ok(entry),
            HeartbeatOutcome::Gone => self.new_entry(claim, state).await,
        }
    }

    /// Reads the queue, and creates the entry first if the claim wants it and it does not exist.
    async fn try_request(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &mut QueueEntry,
    ) -> Result<QueueView, CallError> {
        if let Some(revision) = entry.handed_over_at.take() {
            state.update(&entry.key, |noted| noted.handed_over_at = None);
            return Ok(QueueView::of_head(entry, revision));
        }
        // The permit comes first: the right transaction depends on the queue at the time when it is
        // sent.
        let permit =
            self.members.acquire_permit(CallKind::Request, "asking for a lock").await.map_err(CallError::of)?;
        if entry.create_revision != 0 {
            let view = Box::pin(self.read_queue(&permit, entry)).await?;
            if view.own.as_ref().is_some_and(|own| own.create_revision == entry.create_revision) {
                return Ok(view);
            }
            // The key is gone, and with it the position in the queue.
            (entry.create_revision, entry.token) = (0, None);
            state.update(&entry.key, |noted| (noted.create_revision, noted.token) = (0, None));
        }
        if claim.queues() {
            self.acquire_or_enqueue(&permit, claim, state, entry).await
        } else {
            Box::pin(self.acquire(&permit, claim, state, entry, IfHeld::Read)).await
        }
    }

    async fn acquire_or_enqueue(
        &self,
        permit: &CallPermit,
        claim: &Claim,
        state: &ClaimState,
        entry: &mut QueueEntry,
    ) -> Result<QueueView, CallError> {
        if !state.is_in_doubt()
            && let Some(view) = Box::pin(self.enqueue_behind(permit, claim, state, entry)).await?
        {
            return Ok(view);
        }
        // A lock without waiters is likely to be free: the cheaper transaction goes first. Not
        // after a lost reply, which may have created the entry.
        if !state.is_in_doubt() && !self.watches.is_watched(&entry.range) {
            let view = self.acquire(permit, claim, state, entry, IfHeld::DoNothing).await?;
            if view.own.is_some() {
                return Ok(view);
            }
        }
        Box::pin(self.acquire(permit, claim, state, entry, IfHeld::Enqueue)).await
    }

    /// Reads the queue around an entry that exists. A waiter far back first reads its neighbours
    /// only.
    async fn read_queue(&self, permit: &CallPermit, entry: &QueueEntry) -> Result<QueueView, CallError> {
        let mark = self.realm_mark();
        let transact = async |txn| {
            let reply = self.transact_with(permit, "looking at a lock", txn).await?.value;
            mark.check(&self.members, &reply).map_err(CallError::of)?;
            Ok::<_, CallError>(reply)
        };
        let known = entry.distant_predecessor().map(|(key, create_revision)| (key.to_vec(), create_revision));
        let other = self.watches.predecessor_of(entry).filter(|other| known.is_some() && known.as_ref() != Some(other));
        for (predecessor, create_revision) in known.into_iter().chain(other) {
            let reply = transact(transactions::read_neighbours(entry, &mark, &predecessor)).await?;
            if let Some(view) = QueueView::parse_unchanged(entry, create_revision, &reply) {
                return Ok(view);
            }
        }
        let reply = transact(transactions::read_queue(entry, &mark)).await?;
        QueueView::parse(entry, &reply).map_err(CallError::of)
    }

    /// Creates the entry behind the last one of this process, if many of them wait.
    async fn enqueue_behind(
        &self,
        permit: &CallPermit,
        claim: &Claim,
        state: &ClaimState,
        entry: &mut QueueEntry,
    ) -> Result<Option<QueueView>, CallError> {
        let Some((predecessor, create_revision, known_holder)) = self.watches.last_of_long_queue(&entry.range) else {
            return Ok(None);
        };
        let (tombstone, mark) = (self.layout.tombstone(entry.lease_id, claim.holder()), self.realm_mark());
        let txn = transactions::enqueue_behind(entry, &mark, &predecessor, &tombstone);
        let reply = self.transact_request(permit, state, &mark, txn).await?;
        let Some(view) = QueueView::parse_enqueued(entry, create_revision, &reply) else { return Ok(None) };
        (entry.create_revision, entry.known_holder) = (view.revision, known_holder);
        state.update(&entry.key, |noted| noted.create_revision = view.revision);
        // If the predecessor has gone, only a read of the whole queue shows the next one.
        if view.predecessor.is_some() { Ok(Some(view)) } else { self.read_queue(permit, entry).await.map(Some) }
    }

    async fn acquire(
        &self,
        permit: &CallPermit,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        if_held: IfHeld,
    ) -> Result<QueueView, CallError> {
        let (tombstone, mark) = (self.layout.tombstone(entry.lease_id, claim.holder()), self.realm_mark());
        let txn = transactions::acquire(entry, &mark, if_held, &tombstone);
        let reply = self.transact_request(permit, state, &mark, txn).await?;
        QueueView::parse(entry, &reply).map_err(CallError::of)
    }

    /// Runs a transaction that may create the claim's entry.
    async fn transact_request(
        &self,
        permit: &CallPermit,
        state: &ClaimState,
        mark: &RealmMark,
        txn: Txn,
    ) -> Result<TxnResponse, CallError> {
        let result = self.transact_with(permit, "asking for a lock", txn).await;
        match &result {
            Ok(reply) => state.note_in_doubt(reply.in_doubt),
            Err(failed) => state.note_in_doubt(failed.error.may_have_taken_effect()),
        }
        let reply = result?.value;
        mark.check(&self.members, &reply).map_err(CallError::of)?;
        Ok(reply)
    }

    /// Turns the view into the claim's lease, or into the contention that it waits on.
    fn to_attempt(&self, claim: &Claim, state: &ClaimState, entry: &QueueEntry, view: QueueView) -> Attempt {
        let own = view.own.as_ref().filter(|own| entry.owns(own));
        let is_head = own.is_some_and(|own| view.head.as_ref().is_some_and(|head| head.key == own.key));
        let predecessor = view.predecessor.as_ref().filter(|_| own.is_some()).or(view.head.as_ref());
        let mut token = None;
        state.update(&entry.key, |noted| {
            noted.create_revision = own.map_or(0, |own| own.create_revision);
            noted.predecessor = predecessor.map(|key| (key.key.clone(), key.create_revision));
            if is_head {
                token = Some(*noted.token.get_or_insert(view.revision.unsigned_abs()));
            }
        });
        let session = entry.shared_lease.as_ref().map(|lease| lease.session.clone());
        if let Some(token) = token {
            let token = Some(FencingToken::new(self.realm(), token));
            return Attempt::Granted(match session {
                // Etcd syncs every write before it replies.
                Some(session) => Lease::on_session(session, token, Retention::Complete),
                None => Lease::new(entry.ttl, token, Retention::Complete),
            });
        }
        // A read of the neighbours does not contain the head.
        let mut by = view.head.as_ref().map_or_else(|| entry.known_holder.clone(), |head| self.held_by(head));
        by.ahead = view.ahead.or(entry.known_holder.ahead);
        state.update(&entry.key, |noted| noted.known_holder = by.clone());
        // An entry without a session is renewed by the next request.
        let poll_interval = if session.is_some() { POLL_INTERVAL.min(entry.ttl) } else { entry.ttl / 3 };
        let contention = Contention::new(by, poll_interval).with_version(view.revision.unsigned_abs());
        Attempt::Held(match session {
            Some(session) if claim.queues() => contention.on_session(session),
            _ => contention,
        })
    }
}
