//! [`ZkStore`]: the contract on ephemeral nodes, sessions and watches.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};
use lock_core::{
    Attempt, Beat, BreakMode, Claim, Clock, ClockKind, Contention, Effect, Error, ErrorKind, Eviction, Expiry, Fault,
    Faults, FencingToken, Guarantees, HeldBy, Holder, Lease, LockName, LockStore, Moment, Realm, ReleaseOutcome,
    Renewal, RenewalBatch, RenewalOutcome, Result, Retention, TokenRaiser, WaitStyle, async_trait,
};
use zookeeper_client::{Acls, Client, CreateMode, CreateSequence, Error as ZkError, OneshotWatcher, Stat};

use crate::entry::{ClaimState, EntryNode, QueueEntry};
use crate::error::{CallError, classify, unexpected_reply};
use crate::heartbeat::HeartbeatOutcome;
use crate::layout::Layout;
use crate::opener::SessionOpener;
use crate::operator::{Head, read_head};
use crate::queue::{Queue, holder_of, prefix};
use crate::realm::RealmNode;
use crate::record::{self, HolderRecord};
use crate::session::{SessionPool, ZkSession, locked, make_container};
use crate::session_client::SessionClient;
use crate::uncontended::Plan;
use crate::{FenceCondition, ZkConfig};

/// Locks in ZooKeeper. The crate's documentation has the layout.
///
/// Handles are independent, as those of two processes are; all locks of one handle share its sessions.
pub struct ZkStore {
    pub(crate) layout: Layout,
    pub(crate) clock: Clock,
    pub(crate) opener: SessionOpener,
    pub(crate) sessions: SessionPool,
    pub(crate) voters: usize,
    /// Who may touch what is made here.
    pub(crate) acls: Acls<'static>,
}

/// A waiter looks again this often even if no hint came.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// In how many nodes a renewal round writes since when their locks are held.
const MAX_GRANT_TIMES_PER_ROUND: usize = 16;

/// How often a lock's node is made that the server deletes, being empty, before anything is in it.
const MAX_CREATE_ATTEMPTS: usize = 3;

/// With so many others who come into a line, or look at it, at the same time, a look is shared.
const SHARED_READ_THRESHOLD: usize = 3;

impl ZkStore {
    /// Connects, and reads who the servers are. Sessions are stamped with `clock`: the locks must go by the same one.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig), [`Unavailable`](ErrorKind::Unavailable),
    /// [`TimedOut`](ErrorKind::TimedOut), [`Denied`](ErrorKind::Denied) or [`Protocol`](ErrorKind::Protocol).
    ///
    /// # Cancel safety
    ///
    /// It leaves at most the node that says whose tokens these are, which the next one finds.
    pub async fn connect(config: ZkConfig, clock: &Clock) -> Result<ZkStore> {
        let layout = Layout::new(&config.path)?;
        let is_known = config.login.is_some();
        let opener = SessionOpener::new(config, clock, RealmNode::new(&layout))?;
        let tick = opener.measure_tick().await?;
        let reader = opener.reader().await?;
        let client = &reader.client()?;
        let acls = acls(client, is_known, &layout).await?;
        let voters = voters(client).await?;
        // What the renewal rounds need; servers before 3.6 have it not.
        client.list_ephemerals(layout.base()).await.map_err(|failure| classify("connecting", failure, false))?;
        opener.realm_node().load_or_create(client, layout.base(), acls).await?;
        opener.check_one_ensemble().await?;
        let sessions = SessionPool::new(opener.clone(), tick, layout.sessions_path(), acls);
        Ok(ZkStore { layout, clock: clock.clone(), opener, sessions, voters, acls })
    }

    /// What an ensemble of so many voting servers promises.
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

    /// The condition for writes inside ZooKeeper by the holder of this lock, as data for any client; `None` if this holder
    /// does not hold it.
    ///
    /// # Errors
    ///
    /// As for [`inspect`](LockStore::inspect).
    ///
    /// # Cancel safety
    ///
    /// It changes nothing.
    pub async fn fence_condition(&self, name: &LockName, holder: Holder) -> Result<Option<FenceCondition>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let revoked = HolderRecord::decode(&head.data).is_some_and(|value| value.revoked);
        let is_holder = head.holder() == Some(holder) && !revoked;
        let condition =
            FenceCondition { path: head.path, version: FenceCondition::ANY_VERSION, czxid: head.stat.czxid };
        Ok(is_holder.then_some(condition))
    }

    pub(crate) fn token(&self, czxid: i64) -> FencingToken {
        FencingToken::new(self.realm(), czxid.unsigned_abs())
    }

    /// Asks once, by the claim's place or a new one.
    async fn try_request(&self, claim: &Claim, state: &ClaimState) -> Result<Attempt, CallError> {
        let sent = self.clock.now();
        if let Some(entry) = state.entry() {
            if entry.zk_session.is_valid(&self.clock) && entry.zk_session.may_be_alive() {
                // Boxed, here and elsewhere, so that the future of a request for a lock that is free stays small.
                Box::pin(self.keep_session(claim, &entry.zk_session, sent)).await?;
                if let Some(attempt) = Box::pin(self.resume_entry(claim, state, &entry)).await? {
                    return Ok(attempt);
                }
            } else {
                // Its session is over here, yet its node may stand for a while.
                Box::pin(self.withdraw(claim, &entry)).await?;
                state.take_entry();
            }
        }
        if !claim.queues()
            && let Some(held) = Box::pin(self.read_contention(claim)).await?
        {
            return Ok(held);
        }
        let entry = match state.entry() {
            Some(entry) => entry,
            None => self.new_entry(claim, state).await?,
        };
        self.enter(claim, state, &entry).await
    }

    async fn new_entry(&self, claim: &Claim, state: &ClaimState) -> Result<QueueEntry> {
        let zk_session = match claim.is_fixed() {
            true => Box::pin(self.sessions.open_single(claim.ttl())).await?,
            false => self.sessions.for_ttl(claim.ttl()).await?,
        };
        let entry = QueueEntry::new(self.layout.lock_path(claim.name()), zk_session);
        state.set_entry(entry.clone());
        if let Some(session) = entry.zk_session.core_session() {
            // From here on what is written for the claim is no orphan.
            session.carry(claim);
        }
        Ok(entry)
    }

    /// Keeps what carries a place that the claim had before. A session of its own starts anew, as the contract asks.
    async fn keep_session(&self, claim: &Claim, zk_session: &ZkSession, sent: Moment) -> Result<(), CallError> {
        if let Some(session) = zk_session.core_session() {
            session.carry(claim);
            return Ok(());
        }
        match zk_session.heartbeat(&self.clock, Some(sent)).await? {
            HeartbeatOutcome::AliveSince(since) => zk_session.extend(self.clock.valid_until(since, zk_session.ttl)),
            HeartbeatOutcome::Gone => {
                let error = Error::refused(ErrorKind::Unavailable, "the session of a fixed lease has ended");
                return Err(CallError { error, session_is_gone: true });
            }
        }
        Ok(())
    }

    /// How the lock is held for a claim that takes no place unless it is free; it writes nothing.
    async fn read_contention(&self, claim: &Claim) -> Result<Option<Attempt>, CallError> {
        let lock_path = self.layout.lock_path(claim.name());
        let look = move |client: Client| {
            let lock_path = lock_path.clone();
            async move {
                let queue = read_queue(&client, &lock_path, true).await?;
                let Some(first) = queue.first() else { return Ok(None) };
                read_head(&client, &format!("{lock_path}/{}", first.node)).await.map(Some)
            }
        };
        let Some(head) = self.read(look).await? else { return Ok(None) };
        Ok(Some(Attempt::Held(Contention::new(self.held_by_head(head), RETRY_INTERVAL.min(claim.ttl())))))
    }

    /// What is said of who is first in line; nothing, if that one has just gone.
    fn held_by_head(&self, head: Option<Head>) -> HeldBy {
        head.map(|head| self.held_by(&head)).unwrap_or_default()
    }

    /// One look at the line by a claim that has, or may have, a place in it; `None` if it has none.
    ///
    /// Who is the first is granted: a quorum made its node on this session, no other node ever has that name, and every
    /// server that serves the session knows all that came before it. A server may be late, and not yet know that an
    /// operator has deleted the node meanwhile; then it is as if the deletion came after the grant, and the next
    /// renewal round notices it. Whether a node was made at all only the leader can say.
    async fn resume_entry(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
    ) -> Result<Option<Attempt>, CallError> {
        let client = entry.zk_session.client();
        let queue = entry.zk_session.queue_reader.read(client, &entry.lock_path, entry.node.is_none()).await?;
        let found = match &entry.node {
            Some(node) => queue.position_of(&node.name).map(|position| (position, node.clone())),
            None => self.find_entry(claim, entry, client, &queue).await?,
        };
        let Some((position, node)) = found else {
            // It is not there, and whatever was on its way before this look on the same session would be.
            state.update(&entry.zk_session, |entry| {
                (entry.node, entry.in_doubt, entry.granted) = (None, false, false);
            });
            return Ok(None);
        };
        state.update(&entry.zk_session, |entry| {
            (entry.node, entry.in_doubt) = (Some(node.clone()), false);
        });
        let entry = QueueEntry { node: Some(node), ..entry.clone() };
        Ok(Some(self.attempt(claim, state, &entry, &queue, position).await?))
    }

    /// The claim's node, found by the holder's number, and its place in the line.
    async fn find_entry(
        &self,
        claim: &Claim,
        entry: &QueueEntry,
        client: &SessionClient,
        queue: &Queue,
    ) -> Result<Option<(usize, EntryNode)>, CallError> {
        let Some(position) = queue.position(claim.holder()) else { return Ok(None) };
        let Some(entry_name) = queue.at(position) else { return Ok(None) };
        let path = entry.path(&entry_name.node);
        let own = path.clone();
        let stat = move |client: Client| async move {
            client.check_stat(&own).await.map_err(|failure| classify("asking for a lock", failure, false))
        };
        match client.call(stat).await? {
            Some(stat) if stat.ephemeral_owner == entry.zk_session.id => {
                let node = EntryNode { name: entry_name.node.clone(), czxid: stat.czxid };
                Ok(Some((position, node)))
            }
            // It dies with an older session of this claim, and must not be taken for a lease.
            Some(_) => {
                client.call(|client| delete_node(client, path, "asking for a lock")).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Takes a place at the end of the line, and looks at it, in one go.
    async fn enter(&self, claim: &Claim, state: &ClaimState, entry: &QueueEntry) -> Result<Attempt, CallError> {
        let client = entry.zk_session.client();
        // Who does not queue is granted now or not at all; who does may be granted later.
        let since = if claim.queues() { None } else { record::unix_seconds() };
        for _ in 0..MAX_CREATE_ATTEMPTS {
            // Before it leaves: from now on there may be a node.
            state.update(&entry.zk_session, |entry| {
                (entry.node, entry.in_doubt, entry.granted, entry.sole) = (None, true, false, None);
            });
            let (_interest, others) = entry.zk_session.queue_reader.announce(&entry.lock_path);
            let mut plan = entry.zk_session.uncontended.plan(&entry.lock_path);
            if others >= SHARED_READ_THRESHOLD && plan == Plan::CreateAndList {
                // They share a look, after they came.
                plan = Plan::CreateOnly;
            }
            let creation = Creation {
                lock_path: entry.lock_path.clone(),
                path: entry.path(&prefix(claim.holder())),
                value: HolderRecord::encode(claim, entry.zk_session.ttl, since),
                acls: self.acls,
                plan,
            };
            let Created { created, mut queue_read, watcher } = client.call(|client| creation.send(client)).await?;
            if let Some(watcher) = watcher {
                entry.zk_session.uncontended.set_watch(&entry.lock_path, watcher);
            }
            let (stat, sequence) = match created {
                Ok(created) => created,
                Err(failure) => {
                    let no_lock_node = failure == ZkError::NoNode;
                    let failed = classify("asking for a lock", failure, true);
                    if !failed.error.may_have_taken_effect() || no_lock_node {
                        state.update(&entry.zk_session, |entry| entry.in_doubt = false);
                    }
                    if no_lock_node {
                        let (lock_path, acls) = (entry.lock_path.clone(), self.acls);
                        let make = move |client: Client| async move { make_container(&client, &lock_path, acls).await };
                        Box::pin(client.call(make)).await?;
                        continue;
                    }
                    return Err(failed);
                }
            };
            if stat.ephemeral_owner != entry.zk_session.id || stat.is_invalid() {
                return Err(unexpected_reply("a node of ZooKeeper was made by another session").into());
            }
            let node = EntryNode { name: format!("{}{sequence}", prefix(claim.holder())), czxid: stat.czxid };
            state.update(&entry.zk_session, |entry| {
                (entry.node, entry.in_doubt) = (Some(node.clone()), false);
            });
            let entry = QueueEntry { node: Some(node.clone()), ..entry.clone() };
            let number = sequence.into_i64();
            if queue_read.is_none() && entry.zk_session.uncontended.is_uncontended(&entry.lock_path, number) {
                queue_read = Some(Ok(Arc::new(Queue::of(vec![node.name.clone()]))));
            }
            let queue = match queue_read {
                Some(queue) => queue,
                None => Box::pin(entry.zk_session.queue_reader.read(client, &entry.lock_path, false)).await,
            };
            let queue = queue.map_err(with_unknown_effect)?;
            let Some(position) = queue.position_of(&node.name) else {
                let text = "a node of ZooKeeper was deleted as soon as it was made";
                return Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text).into());
            };
            if queue.is_single() {
                let sole = entry.zk_session.uncontended.sole_entry(&entry.lock_path, number);
                state.update(&entry.zk_session, |entry| entry.sole = sole);
            }
            if position > 0 && !claim.queues() {
                // Somebody was faster: nothing of the try may stay.
                let own = entry.path(&node.name);
                Box::pin(client.call(|client| delete_node(client, own, "asking for a lock"))).await?;
                state.update(&entry.zk_session, |entry| entry.node = None);
            }
            return self.attempt(claim, state, &entry, &queue, position).await.map_err(with_unknown_effect);
        }
        let text = format!("the node of \"{}\" was deleted again and again", claim.name());
        Err(Error::refused(ErrorKind::Unavailable, text).into())
    }

    /// What the claim's place in the line means for it.
    async fn attempt(
        &self,
        claim: &Claim,
        state: &ClaimState,
        entry: &QueueEntry,
        queue: &Queue,
        position: usize,
    ) -> Result<Attempt, CallError> {
        let session = entry.zk_session.core_session().cloned();
        if let Some(node) = entry.node.as_ref().filter(|_| position == 0) {
            state.update(&entry.zk_session, |entry| {
                if !std::mem::replace(&mut entry.granted, true) && claim.queues() {
                    entry.unwritten_since = record::unix_seconds();
                }
            });
            self.sessions.record_zxid(node.czxid);
            let token = Some(self.token(node.czxid));
            let mut by = HeldBy::holder(claim.holder());
            (by.info, by.token) = (Some(claim.info().clone()), token.clone());
            locked(&entry.zk_session.known_holders).insert(entry.path(&node.name), by);
            return Ok(Attempt::Granted(match session {
                // ZooKeeper syncs every write before it answers.
                Some(session) => Lease::on_session(session, token, Retention::Complete),
                None => Lease::new(entry.zk_session.ttl, token, Retention::Complete),
            }));
        }
        let before = queue.at(position - 1).map(|before| entry.path(&before.node));
        state.update(&entry.zk_session, |entry| entry.predecessor = before);
        let first = queue.first().map(|first| entry.path(&first.node)).unwrap_or_default();
        let known = locked(&entry.zk_session.known_holders).get(&first).cloned();
        let mut by = match known {
            Some(by) => by,
            None => {
                let client = entry.zk_session.client();
                let head = client.call(|client| async move { read_head(&client, &first).await });
                self.held_by_head(Box::pin(head).await?)
            }
        };
        by.ahead = claim.queues().then(|| u32::try_from(position).unwrap_or(u32::MAX));
        // A place without a shared session is kept by asking again.
        let retry_interval =
            if session.is_some() { RETRY_INTERVAL.min(entry.zk_session.ttl) } else { entry.zk_session.ttl / 3 };
        let waiting = Contention::new(by, retry_interval);
        Ok(Attempt::Held(match session {
            Some(session) if claim.queues() => waiting.on_session(session),
            _ => waiting,
        }))
    }

    /// Deletes what the claim has, or may have; gives what was there. After this on the claim's own session nothing can
    /// come any more: its requests are served in their order.
    async fn withdraw(&self, claim: &Claim, entry: &QueueEntry) -> Result<ReleaseOutcome, CallError> {
        if let Some(own) = entry.own() {
            locked(&entry.zk_session.known_holders).remove(&own);
        }
        let own_client = entry.zk_session.may_be_alive().then(|| entry.zk_session.client());
        let withdrawn = match own_client {
            Some(client) => {
                let is_clear = !entry.in_doubt && !claim.is_in_doubt();
                match entry.own().filter(|_| is_clear) {
                    Some(own) => delete_entry(entry, client, own).await,
                    None => {
                        let (lock_path, holder) = (entry.lock_path.clone(), claim.holder());
                        Box::pin(client.call(move |client| delete_entries(client, lock_path, holder))).await
                    }
                }
            }
            // Its session is over here; anybody who may can delete its node.
            None => {
                let (lock_path, holder) = (entry.lock_path.clone(), claim.holder());
                Box::pin(self.read(move |client| delete_entries(client, lock_path.clone(), holder)))
                    .await
                    .map_err(Into::into)
            }
        };
        if withdrawn.is_ok() && entry.zk_session.core_session().is_none() {
            entry.zk_session.end(&self.clock);
        }
        let (found, was_first) = withdrawn?;
        Ok(if found && (entry.granted || was_first) { ReleaseOutcome::Held } else { ReleaseOutcome::NotHeld })
    }

    async fn renew_one(&self, batch: &RenewalBatch, renewal: &Renewal) -> Result<()> {
        match renewal.of() {
            Beat::Lease(claim) => {
                let answer = self.renew_lease(batch.clock(), claim).await?;
                renewal.answer(answer);
            }
            Beat::Session(session) => {
                let Some(zk_session) = self.sessions.find(session) else {
                    return Err(unexpected_reply("BUG: a session of another store"));
                };
                self.renew_session(batch.clock(), renewal, &zk_session).await?;
            }
        }
        Ok(())
    }

    async fn renew_lease(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(entry) = ClaimState::of(claim).entry() else { return Ok(RenewalOutcome::NotHeld) };
        let Some(own) = entry.own() else { return Ok(RenewalOutcome::NotHeld) };
        let HeartbeatOutcome::AliveSince(since) = entry.zk_session.heartbeat(clock, None).await? else {
            return Ok(RenewalOutcome::NotHeld);
        };
        let client = entry.zk_session.client();
        // It follows the heartbeat on the same session, and sees at least what that saw.
        let stat = client.client()?.check_stat(&own).await.map_err(|failure| classify("renewing", failure, false))?;
        if stat.is_none() {
            return Ok(RenewalOutcome::NotHeld);
        }
        entry.zk_session.extend(clock.valid_until(since, entry.zk_session.ttl));
        Ok(RenewalOutcome::HeldSince(since, entry.zk_session.ttl))
    }

    /// Answers by one round of a session. The losses come before the answer, so that a lease whose node was broken is lost
    /// before the session is believed in any longer.
    async fn renew_session(&self, clock: &Clock, renewal: &Renewal, zk_session: &Arc<ZkSession>) -> Result<()> {
        let round = zk_session.round(clock, self.layout.base()).await?;
        let Some((since, nodes)) = &round.alive else {
            zk_session.end(clock);
            renewal.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        let still =
            |claim: &Claim| ClaimState::of(claim).entry().filter(|entry| entry.granted).and_then(|entry| entry.own());
        for (claim, own) in round.granted.iter().filter(|(_, own)| !nodes.contains(own)) {
            // It may have got another node meanwhile.
            if still(claim).is_none_or(|still| still == *own) {
                renewal.not_held(claim);
            }
        }
        renewal.answer(RenewalOutcome::HeldSince(*since, zk_session.ttl));
        if round.start_cleanup() {
            self.write_grant_times(zk_session, &round.granted);
            self.delete_orphans(zk_session, nodes).await?;
        }
        Ok(())
    }

    /// Deletes what nobody claims any more. It comes after the reading of the nodes: who came later has nothing there.
    async fn delete_orphans(&self, zk_session: &Arc<ZkSession>, nodes: &HashSet<String>) -> Result<(), CallError> {
        let Some(session) = zk_session.core_session() else { return Ok(()) };
        let holders: HashSet<Holder> = session.claims().iter().map(Claim::holder).collect();
        let is_orphan = |node: &&String| {
            let holder = self.layout.split(node).and_then(|(_, child)| holder_of(child));
            holder.is_some_and(|holder| !holders.contains(&holder))
        };
        let client = zk_session.client();
        let deleting = nodes.iter().filter(is_orphan).map(|node| {
            let node = node.clone();
            client.call(|client| delete_node(client, node, "deleting what nobody claims"))
        });
        for deleted in join_all(deleting).await {
            deleted?;
        }
        Ok(())
    }

    /// Writes into some nodes since when their holders have the locks, which was not known when they were made. It is for
    /// people, and nobody waits for it; who has written something else there meanwhile is not written over.
    fn write_grant_times(&self, zk_session: &Arc<ZkSession>, granted: &[(Claim, String)]) {
        let Ok(client) = zk_session.client().client() else { return };
        let unwritten_since = |claim: &Claim| ClaimState::of(claim).entry().and_then(|entry| entry.unwritten_since);
        let due = granted.iter().filter_map(|(claim, own)| Some((claim, own, unwritten_since(claim)?)));
        for (claim, own, since) in due.take(MAX_GRANT_TIMES_PER_ROUND) {
            drop(client.set_data(own, &HolderRecord::encode(claim, zk_session.ttl, Some(since)), Some(0)));
            ClaimState::of(claim).update(zk_session, |entry| entry.unwritten_since = None);
        }
    }
}

/// The line of the lock with this node; nobody, if there is no such node. Where it must be what the quorum knows by now, the
/// server is brought up to it first; who has just written by the same session needs no such thing.
pub(crate) async fn read_queue(client: &Client, lock_path: &str, sync: bool) -> Result<Queue, CallError> {
    // They leave in this order, before either is answered.
    let sync = sync.then(|| client.sync(lock_path));
    let list = client.list_children(lock_path);
    let synced = match sync {
        Some(sync) => sync.await,
        None => Ok(()),
    };
    let to_call_error = |failure| classify("looking at a lock", failure, false);
    synced.map_err(to_call_error)?;
    match list.await {
        Ok(children) => Ok(Queue::of(children)),
        Err(ZkError::NoNode) => Ok(Queue::of(Vec::new())),
        Err(failure) => Err(to_call_error(failure)),
    }
}

/// Who comes into a line, and what is done plan it.
struct Creation {
    lock_path: String,
    path: String,
    value: Vec<u8>,
    acls: Acls<'static>,
    plan: Plan,
}

/// What became of it.
struct Created {
    created: Result<(Stat, CreateSequence), ZkError>,
    queue_read: Option<Result<Arc<Queue>, CallError>>,
    watcher: Option<OneshotWatcher>,
}

impl Creation {
    /// A session's requests are served in their order: the watch is there before the creation, and the look is at what
    /// the creation left.
    async fn send(self, client: Client) -> Result<Created, CallError> {
        let mode = CreateMode::EphemeralSequential.with_acls(self.acls);
        let watch = (self.plan == Plan::CreateListAndWatch).then(|| client.check_and_watch_stat(&self.lock_path));
        let create = client.create(&self.path, &self.value, &mode);
        let (created, queue_read) = match self.plan {
            Plan::CreateOnly => (create.await, None),
            Plan::CreateAndList | Plan::CreateListAndWatch => {
                let (created, queue) = join(create, read_queue(&client, &self.lock_path, false)).await;
                (created, Some(queue.map(Arc::new)))
            }
        };
        let watcher = match watch {
            Some(watch) => watch.await.ok().and_then(|(stat, watcher)| stat.map(|_| watcher)),
            None => None,
        };
        Ok(Created { created, queue_read, watcher })
    }
}

/// Deletes a place's own node; gives whether it was there, and whether it was seen to be the first.
async fn delete_entry(entry: &QueueEntry, client: &SessionClient, own: String) -> Result<(bool, bool), CallError> {
    let found = client.call(|client| delete_node(client, own, "releasing")).await?;
    if let Some(sole) = entry.sole.filter(|_| found) {
        entry.zk_session.uncontended.deleted(&entry.lock_path, sole);
    }
    Ok((found, false))
}

/// Deletes a node; gives whether it was there.
pub(crate) async fn delete_node(client: Client, path: String, doing: &'static str) -> Result<bool, CallError> {
    match client.delete(&path, None).await {
        Ok(()) => Ok(true),
        Err(ZkError::NoNode) => Ok(false),
        Err(failure) => Err(classify(doing, failure, true)),
    }
}

/// Deletes whatever this holder has in the line; gives whether there was something, and whether it was the first. After
/// this on the claim's own session nothing of it can come any more: its requests are served in their order.
async fn delete_entries(client: Client, lock_path: String, holder: Holder) -> Result<(bool, bool), CallError> {
    let queue = read_queue(&client, &lock_path, true).await?;
    let (mut any, mut first) = (false, false);
    for position in queue.positions(holder) {
        let Some(entry_name) = queue.at(position) else { continue };
        if delete_node(client.clone(), format!("{lock_path}/{}", entry_name.node), "releasing").await? {
            (any, first) = (true, first || position == 0);
        }
    }
    Ok((any, first))
}

/// A failure after the own node was made: it may stay.
fn with_unknown_effect(failed: CallError) -> CallError {
    let error = Error::new(failed.error.kind(), Effect::Unknown, failed.error.to_string());
    CallError { error, ..failed }
}

/// Who may touch what is made here: only this user, if the servers know one; else whoever reaches them.
async fn acls(client: &Client, is_known: bool, layout: &Layout) -> Result<Acls<'static>> {
    let known = match client.list_auth_users().await {
        Ok(users) => users.iter().any(|user| !["ip", "world"].contains(&user.scheme())),
        // Servers before 3.7 do not say.
        Err(ZkError::Unimplemented) => is_known,
        Err(failure) => return Err(classify("connecting", failure, false).into()),
    };
    if is_known && !known {
        return Err(Error::refused(ErrorKind::Denied, "ZooKeeper does not know this user"));
    }
    let path = layout.base();
    if !known {
        tracing::warn!(path, "nobody has logged in to ZooKeeper: whoever reaches it may delete these locks");
        return Ok(Acls::anyone_all());
    }
    match client.get_acl(path).await {
        Ok((acl, _)) if acl.iter().any(is_open) => {
            tracing::warn!(path, "anybody may delete nodes below this path of ZooKeeper, whatever is made below it");
        }
        Ok(_) | Err(ZkError::NoNode | ZkError::NoAuth) => {}
        Err(failure) => return Err(classify("connecting", failure, false).into()),
    }
    Ok(Acls::creator_all())
}

/// Whether this lets everybody delete what is below a node.
pub(crate) fn is_open(acl: &zookeeper_client::Acl) -> bool {
    acl.scheme() == "world" && acl.permission().has(zookeeper_client::Permission::DELETE)
}

/// How many servers vote.
async fn voters(client: &Client) -> Result<usize> {
    let (config, _) = match client.get_config().await {
        Err(ZkError::NoNode | ZkError::NoAuth) => return Ok(1),
        config => config.map_err(|failure| classify("reading the ensemble", failure, false))?,
    };
    let config = String::from_utf8_lossy(&config);
    let voters = config.lines().filter(|line| line.starts_with("server.") && !line.contains(":observer")).count();
    Ok(voters.max(1))
}

#[async_trait]
impl LockStore for ZkStore {
    fn guarantees(&self) -> Guarantees {
        ZkStore::guarantees_of(self.voters)
    }

    fn realm(&self) -> Realm {
        self.opener.realm_node().realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let state = ClaimState::of(claim);
        match self.try_request(claim, state).await {
            Err(failed) if failed.session_is_gone => {
                // A new one is opened. What was on the old one goes with it, and must not stand in the way of its own holder
                // until then.
                if let Some(entry) = state.take_entry() {
                    entry.zk_session.end(&self.clock);
                    if entry.in_doubt || entry.node.is_some() {
                        Box::pin(self.withdraw(claim, &entry)).await?;
                    }
                }
                Ok(Box::pin(self.try_request(claim, state)).await?)
            }
            asked => Ok(asked?),
        }
    }

    async fn wait(&self, claim: &Claim, _held: &Contention) -> Result<()> {
        let state = ClaimState::of(claim);
        let Some(entry) = state.entry() else { return Ok(()) };
        let Some(before) = entry.predecessor else { return Ok(()) };
        // The node ahead has no children and never will: this tells of its end, and of nothing else.
        let watch = |client: Client| async move {
            match client.list_and_watch_children(&before).await {
                Ok((_, watcher)) => Ok(Some(watcher)),
                Err(ZkError::NoNode) => Ok(None),
                Err(failure) => Err(classify("waiting", failure, false)),
            }
        };
        if let Some(watcher) = entry.zk_session.client().call(watch).await? {
            drop(watcher.changed().await);
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
        let state = ClaimState::of(claim);
        let Some(entry) = state.entry() else { return Ok(ReleaseOutcome::NotHeld) };
        let withdrawn = self.withdraw(claim, &entry).await;
        match &withdrawn {
            Err(failed) if failed.session_is_gone => entry.zk_session.end(&self.clock),
            Err(_) => {}
            // The place stays noted: a request that was given up may still be on its way.
            Ok(_) => state.update(&entry.zk_session, |entry| (entry.node, entry.granted) = (None, false)),
        }
        Ok(withdrawn?)
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
        let (reader, opener) = (self.opener.reader().await?, self.opener.clone());
        Ok(reader.call(|client| async move { Ok(opener.realm_node().replace(&client).await?) }).await?)
    }
}

impl fmt::Debug for ZkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkStore")
            .field("links", &self.opener)
            .field("path", &self.layout.base())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
