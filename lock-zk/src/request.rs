//! Requests for a lock: by the entry that a claim has, or by a new one.

use std::time::Duration;

use lock_core::{Attempt, Claim, Contention, Error, ErrorKind, HeldBy, Lease, Moment, Result, Retention};
use zookeeper_client::Client;

use crate::claim_state::ClaimState;
use crate::enter::LockNode;
use crate::entry::{EntryNode, QueueEntry};
use crate::error::{CallError, classify};
use crate::head::read_head;
use crate::heartbeat::HeartbeatOutcome;
use crate::nodes::delete_node;
use crate::queue::{Queue, read_existing_queue};
use crate::session::ZkSession;
use crate::store::ZkStore;

/// The interval at which a waiter asks again without a notification.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// The state of a lock, as a read shows it.
enum Contended {
    Held(Box<Contention>),
    Free(LockNode),
}

impl ZkStore {
    /// Requests the claim's lock. If the session of its entry has ended, the request is made again
    /// on a new one.
    pub(crate) async fn request_lock(&self, claim: &Claim) -> Result<Attempt> {
        let state = ClaimState::of(claim);
        match self.try_request(claim, state).await {
            Err(failed) if failed.session_is_gone => {
                // The nodes of the old session go with it, and must not block their own holder
                // until then.
                if let Some(entry) = state.take_entry() {
                    entry.session().end(&self.clock);
                    if entry.is_in_doubt() || entry.node().is_some() {
                        Box::pin(self.withdraw(claim, &entry)).await?;
                    }
                }
                Ok(Box::pin(self.try_request(claim, state)).await?)
            }
            attempt => Ok(attempt?),
        }
    }

    async fn try_request(&self, claim: &Claim, state: &ClaimState) -> Result<Attempt, CallError> {
        let sent = self.clock.now();
        if let Some(entry) = state.entry() {
            if entry.session().is_valid(&self.clock) && entry.session().may_be_alive() {
                // Boxed, here and elsewhere, so that the future of a request for a free lock stays
                // small.
                Box::pin(self.keep_session(claim, entry.session(), sent)).await?;
                if let Some(attempt) = Box::pin(self.resume_entry(claim, state, &entry)).await? {
                    return Ok(attempt);
                }
            } else {
                // Its session is over here, yet its node may exist for a while.
                Box::pin(self.withdraw(claim, &entry)).await?;
                state.take_entry();
            }
        }
        let lock_node = match claim.queues() {
            // Most locks are used repeatedly.
            true => LockNode::Expected,
            false => match Box::pin(self.read_contention(claim)).await? {
                Contended::Held(held) => return Ok(Attempt::Held(*held)),
                Contended::Free(lock_node) => lock_node,
            },
        };
        let entry = match state.entry() {
            Some(entry) => entry,
            None => self.new_entry(claim, state).await?,
        };
        self.enter(claim, state, &entry, lock_node).await
    }

    /// Records a new entry on a session for the claim's TTL. Nothing is written yet.
    async fn new_entry(&self, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        let session = match claim.is_fixed() {
            true => Box::pin(self.factory.open_single(claim.ttl())).await?,
            false => self.sessions.for_ttl(&self.factory, claim.ttl()).await?,
        };
        let entry = QueueEntry::new(self.layout.lock_path(claim.name()), session);
        state.set_entry(entry.clone());
        if let Some(core_session) = entry.session().core_session() {
            // From here on a node of the claim is no orphan.
            core_session.carry(claim);
        }
        Ok(entry)
    }

    /// Keeps the session of an entry from before. That of a fixed lease is extended, counted from
    /// `sent` or later, as the contract asks.
    async fn keep_session(&self, claim: &Claim, session: &ZkSession, sent: Moment) -> Result<(), CallError> {
        if let Some(core_session) = session.core_session() {
            core_session.carry(claim);
            return Ok(());
        }
        match session.heartbeat(&self.clock, Some(sent)).await? {
            HeartbeatOutcome::AliveSince(since) => session.extend(self.clock.valid_until(since, session.ttl)),
            HeartbeatOutcome::Gone => {
                let error = Error::refused(ErrorKind::Unavailable, "the session of a fixed lease has ended");
                return Err(CallError { error, session_is_gone: true });
            }
        }
        Ok(())
    }

    /// Reads the holder for a claim that enters the queue only if the lock is free; writes nothing.
    async fn read_contention(&self, claim: &Claim) -> Result<Contended, CallError> {
        let lock_path = self.layout.lock_path(claim.name());
        let read = move |client: Client| {
            let lock_path = lock_path.clone();
            async move {
                let Some(queue) = read_existing_queue(&client, &lock_path, true).await? else {
                    return Ok(Err(LockNode::Missing));
                };
                let Some(first) = queue.first() else { return Ok(Err(LockNode::Expected)) };
                read_head(&client, &format!("{lock_path}/{}", first.node)).await.map(Ok)
            }
        };
        Ok(match self.read(read).await? {
            Ok(head) => {
                Contended::Held(Box::new(Contention::new(self.held_by_head(head), RETRY_INTERVAL.min(claim.ttl()))))
            }
            Err(lock_node) => Contended::Free(lock_node),
        })
    }

    /// Reads the queue for a claim that has, or may have, an entry; `None` if it has none.
    ///
    /// The first entry is granted: a quorum made its node on this session, no other node ever has
    /// that name, and every server that serves the session knows all that came before it. A server
    /// may be late, and not know yet that an operator has deleted the node meanwhile; then it is as
    /// if the deletion came after the grant, and the next renewal notices it. Only the
    /// leader knows if a node was made at all.
    async fn resume_entry(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
    ) -> Result<Option<Attempt>, CallError> {
        let session = entry.session();
        let queue = session.queue_reader.read(session.client(), entry.lock_path(), entry.node().is_none()).await?;
        let found = match entry.node() {
            Some(node) => queue.position_of(&node.name).map(|position| (position, node.clone())),
            None => self.find_entry(claim, entry, &queue).await?,
        };
        let Some((position, node)) = found else {
            // Requests of one session are served in their order: an older one cannot make a node
            // any more.
            state.update(session, QueueEntry::lost);
            return Ok(None);
        };
        state.update(session, |entry| entry.created(node.clone()));
        let mut entry = entry.clone();
        entry.created(node);
        Ok(Some(self.answer(claim, state, &entry, &queue, position).await?))
    }

    /// Finds the claim's node by its holder, and its position in the queue.
    async fn find_entry(
        &self,
        claim: &Claim,
        entry: &QueueEntry,
        queue: &Queue,
    ) -> Result<Option<(usize, EntryNode)>, CallError> {
        let Some(position) = queue.position(claim.holder()) else { return Ok(None) };
        let Some(entry_name) = queue.at(position) else { return Ok(None) };
        let client = entry.session().client();
        let path = entry.path(&entry_name.node);
        let checked = path.clone();
        let stat = move |client: Client| async move {
            client.check_stat(&checked).await.map_err(|failure| classify("asking for a lock", failure, false))
        };
        match client.call(stat).await? {
            Some(stat) if stat.ephemeral_owner == entry.session().id => {
                let node = EntryNode { name: entry_name.node.clone(), czxid: stat.czxid };
                Ok(Some((position, node)))
            }
            // It is of an older session of this claim, with which it ends, and must not be taken
            // for a lease.
            Some(_) => {
                client.call(|client| delete_node(client, path, "asking for a lock")).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// The answer to a claim whose entry is at this position of its queue.
    pub(crate) async fn answer(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        queue: &Queue,
        position: usize,
    ) -> Result<Attempt, CallError> {
        match entry.node().filter(|_| position == 0) {
            Some(node) => Ok(self.grant(claim, state, entry, node)),
            None => self.contention(claim, state, entry, queue, position).await,
        }
    }

    fn grant(&self, claim: &Claim, state: &ClaimState, entry: &QueueEntry, node: &EntryNode) -> Attempt {
        let session = entry.session();
        state.update(session, |entry| entry.grant(claim.queues()));
        self.factory.record_zxid(node.czxid);
        let token = Some(self.token(node.czxid));
        let mut by = HeldBy::holder(claim.holder());
        (by.info, by.token) = (Some(claim.info().clone()), token.clone());
        session.remember_holder(entry.path(&node.name), by);
        // Complete: ZooKeeper syncs every write to its log before it answers.
        Attempt::Granted(match session.core_session() {
            Some(core_session) => Lease::on_session(core_session.clone(), token, Retention::Complete),
            None => Lease::new(session.ttl, token, Retention::Complete),
        })
    }

    async fn contention(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        queue: &Queue,
        position: usize,
    ) -> Result<Attempt, CallError> {
        let session = entry.session();
        let predecessor = queue.at(position - 1).map(|predecessor| entry.path(&predecessor.node));
        state.update(session, |entry| entry.wait_for(predecessor));
        let head_path = queue.first().map(|first| entry.path(&first.node)).unwrap_or_default();
        let mut by = match session.known_holder(&head_path) {
            Some(by) => by,
            None => {
                let read = session.client().call(|client| async move { read_head(&client, &head_path).await });
                self.held_by_head(Box::pin(read).await?)
            }
        };
        by.ahead = claim.queues().then(|| u32::try_from(position).unwrap_or(u32::MAX));
        // An entry without a shared session is kept by asking again.
        let has_core_session = session.core_session().is_some();
        let retry_interval = if has_core_session { RETRY_INTERVAL.min(session.ttl) } else { session.ttl / 3 };
        let contention = Contention::new(by, retry_interval);
        Ok(Attempt::Held(match session.core_session() {
            Some(core_session) if claim.queues() => contention.on_session(core_session.clone()),
            _ => contention,
        }))
    }
}
