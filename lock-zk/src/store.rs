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
use zookeeper_client::{Acls, Client, CreateMode, CreateSequence, Error as Failure, OneshotWatcher, Stat};

use crate::emptied::Beside;
use crate::error::{CallError, judge, protocol};
use crate::heartbeat::Beaten;
use crate::line::{Line, holder_of, prefix};
use crate::link::Links;
use crate::names::Names;
use crate::operator::{Head, read_head};
use crate::place::{Node, Notes, Place};
use crate::realm::Whose;
use crate::session::{Carrier, Sessions, locked, make_folder};
use crate::value::{self, Value};
use crate::wire::Wire;
use crate::{Proof, ZkConfig};

/// Locks in ZooKeeper. The crate's documentation has the layout.
///
/// Handles are independent, as those of two processes are; all locks of one handle share its sessions.
pub struct ZkStore {
    pub(crate) names: Names,
    pub(crate) clock: Clock,
    pub(crate) links: Links,
    pub(crate) sessions: Sessions,
    pub(crate) voters: usize,
    /// Who may touch what is made here.
    pub(crate) acls: Acls<'static>,
}

/// A waiter looks again this often even if no hint came.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// In how many nodes a renewal round writes since when their locks are held.
const MARKS: usize = 16;

/// How often a lock's node is made that the server deletes, being empty, before anything is in it.
const FOLDER_TRIES: usize = 3;

/// With so many others who come into a line, or look at it, at the same time, a look is shared.
const CROWD: usize = 3;

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
        let names = Names::below(&config.path)?;
        let is_known = config.login.is_some();
        let links = Links::new(config, clock, Whose::below(&names))?;
        let tick = links.tick().await?;
        let reader = links.reader().await?;
        let client = &reader.client()?;
        let acls = acls(client, is_known, &names).await?;
        let voters = voters(client).await?;
        // What the renewal rounds need; servers before 3.6 have it not.
        client.list_ephemerals(names.base()).await.map_err(|failure| judge("connecting", failure, false))?;
        links.whose().begin(client, names.base(), acls).await?;
        links.check_servers().await?;
        let sessions = Sessions::new(links.clone(), tick, names.sessions(), acls);
        Ok(ZkStore { names, clock: clock.clone(), links, sessions, voters, acls })
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
    pub async fn proof(&self, name: &LockName, holder: Holder) -> Result<Option<Proof>> {
        let Some(head) = self.head(name).await? else { return Ok(None) };
        let revoked = Value::read(&head.data).is_some_and(|value| value.revoked);
        let is_holder = head.holder() == Some(holder) && !revoked;
        let proof = Proof { path: head.path, version: Proof::ANY_VERSION, czxid: head.stat.czxid };
        Ok(is_holder.then_some(proof))
    }

    pub(crate) fn token(&self, czxid: i64) -> FencingToken {
        FencingToken::new(self.realm(), czxid.unsigned_abs())
    }

    /// Asks once, by the claim's place or a new one.
    async fn asked(&self, claim: &Claim, notes: &Notes) -> Result<Attempt, CallError> {
        let sent = self.clock.now();
        if let Some(place) = notes.place() {
            if place.carrier.is_valid(&self.clock) && place.carrier.may_stand() {
                // Boxed, here and elsewhere, so that the future of a request for a lock that is free stays small.
                Box::pin(self.keep(claim, &place.carrier, sent)).await?;
                if let Some(attempt) = Box::pin(self.again(claim, notes, &place)).await? {
                    return Ok(attempt);
                }
            } else {
                // Its session is over here, yet its node may stand for a while.
                Box::pin(self.left(claim, &place)).await?;
                notes.leave();
            }
        }
        if !claim.queues()
            && let Some(held) = Box::pin(self.held_by_another(claim)).await?
        {
            return Ok(held);
        }
        let place = match notes.place() {
            Some(place) => place,
            None => self.new_place(claim, notes).await?,
        };
        self.enter(claim, notes, &place).await
    }

    async fn new_place(&self, claim: &Claim, notes: &Notes) -> Result<Place> {
        let carrier = match claim.is_fixed() {
            true => Box::pin(self.sessions.alone(claim.ttl())).await?,
            false => self.sessions.for_ttl(claim.ttl()).await?,
        };
        let place = Place::new(self.names.folder(claim.name()), carrier);
        notes.take_place(place.clone());
        if let Some(session) = place.carrier.session() {
            // From here on what is written for the claim is no orphan.
            session.carry(claim);
        }
        Ok(place)
    }

    /// Keeps what carries a place that the claim had before. A session of its own starts anew, as the contract asks.
    async fn keep(&self, claim: &Claim, carrier: &Carrier, sent: Moment) -> Result<(), CallError> {
        if let Some(session) = carrier.session() {
            session.carry(claim);
            return Ok(());
        }
        match carrier.beat(&self.clock, Some(sent)).await? {
            Beaten::Since(since) => carrier.extend(self.clock.valid_until(since, carrier.ttl)),
            Beaten::Gone => {
                let error = Error::refused(ErrorKind::Unavailable, "the session of a fixed lease has ended");
                return Err(CallError { error, session_is_gone: true });
            }
        }
        Ok(())
    }

    /// How the lock is held for a claim that takes no place unless it is free; it writes nothing.
    async fn held_by_another(&self, claim: &Claim) -> Result<Option<Attempt>, CallError> {
        let folder = self.names.folder(claim.name());
        let look = move |client: Client| {
            let folder = folder.clone();
            async move {
                let line = line(&client, &folder, true).await?;
                let Some(first) = line.first() else { return Ok(None) };
                read_head(&client, &format!("{folder}/{}", first.node)).await.map(Some)
            }
        };
        let Some(head) = self.read(look).await? else { return Ok(None) };
        Ok(Some(Attempt::Held(Contention::new(self.held_by_first(head), LOOK_AGAIN.min(claim.ttl())))))
    }

    /// What is said of who is first in line; nothing, if that one has just gone.
    fn held_by_first(&self, head: Option<Head>) -> HeldBy {
        head.map(|head| self.held_by(&head)).unwrap_or_default()
    }

    /// One look at the line by a claim that has, or may have, a place in it; `None` if it has none.
    ///
    /// Who is the first is granted: a quorum made its node on this session, no other node ever has that name, and every
    /// server that serves the session knows all that came before it. A server may be late, and not yet know that an
    /// operator has deleted the node meanwhile; then it is as if the deletion came after the grant, and the next
    /// renewal round notices it. Whether a node was made at all only the leader can say.
    async fn again(&self, claim: &Claim, notes: &Notes, place: &Place) -> Result<Option<Attempt>, CallError> {
        let wire = place.carrier.wire();
        let line = place.carrier.looks.look(wire, &place.folder, place.node.is_none()).await?;
        let found = match &place.node {
            Some(node) => line.place_of(&node.name).map(|position| (position, node.clone())),
            None => self.found(claim, place, wire, &line).await?,
        };
        let Some((position, node)) = found else {
            // It is not there, and whatever was on its way before this look on the same session would be.
            notes.update(&place.carrier, |place| {
                (place.node, place.in_doubt, place.granted) = (None, false, false);
            });
            return Ok(None);
        };
        notes.update(&place.carrier, |place| {
            (place.node, place.in_doubt) = (Some(node.clone()), false);
        });
        let place = Place { node: Some(node), ..place.clone() };
        Ok(Some(self.attempt(claim, notes, &place, &line, position).await?))
    }

    /// The claim's node, found by the holder's number, and its place in the line.
    async fn found(
        &self,
        claim: &Claim,
        place: &Place,
        wire: &Wire,
        line: &Line,
    ) -> Result<Option<(usize, Node)>, CallError> {
        let Some(position) = line.position(claim.holder()) else { return Ok(None) };
        let Some(contender) = line.at(position) else { return Ok(None) };
        let path = place.path(&contender.node);
        let own = path.clone();
        let stat = move |client: Client| async move {
            client.check_stat(&own).await.map_err(|failure| judge("asking for a lock", failure, false))
        };
        match wire.ask(stat).await? {
            Some(stat) if stat.ephemeral_owner == place.carrier.id => {
                let node = Node { name: contender.node.clone(), czxid: stat.czxid };
                Ok(Some((position, node)))
            }
            // It dies with an older session of this claim, and must not be taken for a lease.
            Some(_) => {
                wire.ask(|client| delete(client, path, "asking for a lock")).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Takes a place at the end of the line, and looks at it, in one go.
    async fn enter(&self, claim: &Claim, notes: &Notes, place: &Place) -> Result<Attempt, CallError> {
        let wire = place.carrier.wire();
        // Who does not queue is granted now or not at all; who does may be granted later.
        let since = if claim.queues() { None } else { value::now() };
        for _ in 0..FOLDER_TRIES {
            // Before it leaves: from now on there may be a node.
            notes.update(&place.carrier, |place| {
                (place.node, place.in_doubt, place.granted, place.alone) = (None, true, false, None);
            });
            let (_comes, others) = place.carrier.looks.comes(&place.folder);
            let mut beside = place.carrier.emptied.beside(&place.folder);
            if others >= CROWD && beside == Beside::Look {
                // They share a look, after they came.
                beside = Beside::Nothing;
            }
            let coming = Coming {
                folder: place.folder.clone(),
                path: place.path(&prefix(claim.holder())),
                value: Value::of(claim, place.carrier.ttl, since),
                acls: self.acls,
                beside,
            };
            let Came { created, mut looked, watcher } = wire.ask(|client| coming.come(client)).await?;
            if let Some(watcher) = watcher {
                place.carrier.emptied.watched(&place.folder, watcher);
            }
            let (stat, sequence) = match created {
                Ok(created) => created,
                Err(failure) => {
                    let no_folder = failure == Failure::NoNode;
                    let failed = judge("asking for a lock", failure, true);
                    if !failed.error.may_have_taken_effect() || no_folder {
                        notes.update(&place.carrier, |place| place.in_doubt = false);
                    }
                    if no_folder {
                        let (folder, acls) = (place.folder.clone(), self.acls);
                        let make = move |client: Client| async move { make_folder(&client, &folder, acls).await };
                        Box::pin(wire.ask(make)).await?;
                        continue;
                    }
                    return Err(failed);
                }
            };
            if stat.ephemeral_owner != place.carrier.id || stat.is_invalid() {
                return Err(protocol("a node of ZooKeeper was made by another session").into());
            }
            let node = Node { name: format!("{}{sequence}", prefix(claim.holder())), czxid: stat.czxid };
            notes.update(&place.carrier, |place| {
                (place.node, place.in_doubt) = (Some(node.clone()), false);
            });
            let place = Place { node: Some(node.clone()), ..place.clone() };
            let number = sequence.into_i64();
            if looked.is_none() && place.carrier.emptied.is_next(&place.folder, number) {
                looked = Some(Ok(Arc::new(Line::of(vec![node.name.clone()]))));
            }
            let line = match looked {
                Some(line) => line,
                None => Box::pin(place.carrier.looks.look(wire, &place.folder, false)).await,
            };
            let line = line.map_err(may_stand)?;
            let Some(position) = line.place_of(&node.name) else {
                let text = "a node of ZooKeeper was deleted as soon as it was made";
                return Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text).into());
            };
            if line.is_of_one() {
                let alone = place.carrier.emptied.alone(&place.folder, number);
                notes.update(&place.carrier, |place| place.alone = alone);
            }
            if position > 0 && !claim.queues() {
                // Somebody was faster: nothing of the try may stay.
                let own = place.path(&node.name);
                Box::pin(wire.ask(|client| delete(client, own, "asking for a lock"))).await?;
                notes.update(&place.carrier, |place| place.node = None);
            }
            return self.attempt(claim, notes, &place, &line, position).await.map_err(may_stand);
        }
        let text = format!("the node of \"{}\" was deleted again and again", claim.name());
        Err(Error::refused(ErrorKind::Unavailable, text).into())
    }

    /// What the claim's place in the line means for it.
    async fn attempt(
        &self,
        claim: &Claim,
        notes: &Notes,
        place: &Place,
        line: &Line,
        position: usize,
    ) -> Result<Attempt, CallError> {
        let session = place.carrier.session().cloned();
        if let Some(node) = place.node.as_ref().filter(|_| position == 0) {
            notes.update(&place.carrier, |place| {
                if !std::mem::replace(&mut place.granted, true) && claim.queues() {
                    place.unmarked = value::now();
                }
            });
            self.sessions.saw(node.czxid);
            let token = Some(self.token(node.czxid));
            let mut by = HeldBy::holder(claim.holder());
            (by.info, by.token) = (Some(claim.info().clone()), token.clone());
            locked(&place.carrier.holders).insert(place.path(&node.name), by);
            return Ok(Attempt::Granted(match session {
                // ZooKeeper syncs every write before it answers.
                Some(session) => Lease::on_session(session, token, Retention::Complete),
                None => Lease::new(place.carrier.ttl, token, Retention::Complete),
            }));
        }
        let before = line.at(position - 1).map(|before| place.path(&before.node));
        notes.update(&place.carrier, |place| place.waits_for = before);
        let first = line.first().map(|first| place.path(&first.node)).unwrap_or_default();
        let known = locked(&place.carrier.holders).get(&first).cloned();
        let mut by = match known {
            Some(by) => by,
            None => {
                let wire = place.carrier.wire();
                let head = wire.ask(|client| async move { read_head(&client, &first).await });
                self.held_by_first(Box::pin(head).await?)
            }
        };
        by.ahead = claim.queues().then(|| u32::try_from(position).unwrap_or(u32::MAX));
        // A place without a shared session is kept by asking again.
        let look_again = if session.is_some() { LOOK_AGAIN.min(place.carrier.ttl) } else { place.carrier.ttl / 3 };
        let waiting = Contention::new(by, look_again);
        Ok(Attempt::Held(match session {
            Some(session) if claim.queues() => waiting.on_session(session),
            _ => waiting,
        }))
    }

    /// Deletes what the claim has, or may have; gives what was there. After this on the claim's own session nothing can
    /// come any more: its requests are served in their order.
    async fn left(&self, claim: &Claim, place: &Place) -> Result<ReleaseOutcome, CallError> {
        if let Some(own) = place.own() {
            locked(&place.carrier.holders).remove(&own);
        }
        let own_wire = place.carrier.may_stand().then(|| place.carrier.wire());
        let left = match own_wire {
            Some(wire) => {
                let is_clear = !place.in_doubt && !claim.is_in_doubt();
                match place.own().filter(|_| is_clear) {
                    Some(own) => left_by(place, wire, own).await,
                    None => {
                        let (folder, holder) = (place.folder.clone(), claim.holder());
                        Box::pin(wire.ask(move |client| delete_all(client, folder, holder))).await
                    }
                }
            }
            // Its session is over here; anybody who may can delete its node.
            None => {
                let (folder, holder) = (place.folder.clone(), claim.holder());
                Box::pin(self.read(move |client| delete_all(client, folder.clone(), holder))).await.map_err(Into::into)
            }
        };
        if left.is_ok() && place.carrier.session().is_none() {
            place.carrier.end(&self.clock);
        }
        let (found, was_first) = left?;
        Ok(if found && (place.granted || was_first) { ReleaseOutcome::Held } else { ReleaseOutcome::NotHeld })
    }

    async fn renew_one(&self, batch: &RenewalBatch, renewal: &Renewal) -> Result<()> {
        match renewal.of() {
            Beat::Lease(claim) => {
                let answer = self.renew_lease(batch.clock(), claim).await?;
                renewal.answer(answer);
            }
            Beat::Session(session) => {
                let Some(carrier) = self.sessions.of(session) else {
                    return Err(protocol("BUG: a session of another store"));
                };
                self.renew_session(batch.clock(), renewal, &carrier).await?;
            }
        }
        Ok(())
    }

    async fn renew_lease(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(place) = Notes::of(claim).place() else { return Ok(RenewalOutcome::NotHeld) };
        let Some(own) = place.own() else { return Ok(RenewalOutcome::NotHeld) };
        let Beaten::Since(since) = place.carrier.beat(clock, None).await? else { return Ok(RenewalOutcome::NotHeld) };
        let wire = place.carrier.wire();
        // It follows the heartbeat on the same session, and sees at least what that saw.
        let stat = wire.client()?.check_stat(&own).await.map_err(|failure| judge("renewing", failure, false))?;
        if stat.is_none() {
            return Ok(RenewalOutcome::NotHeld);
        }
        place.carrier.extend(clock.valid_until(since, place.carrier.ttl));
        Ok(RenewalOutcome::HeldSince(since, place.carrier.ttl))
    }

    /// Answers by one round of a session. The losses come before the answer, so that a lease whose node was broken is lost
    /// before the session is believed in any longer.
    async fn renew_session(&self, clock: &Clock, renewal: &Renewal, carrier: &Arc<Carrier>) -> Result<()> {
        let round = carrier.round(clock, self.names.base()).await?;
        let Some((since, nodes)) = &round.stands else {
            carrier.end(clock);
            renewal.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        let still =
            |claim: &Claim| Notes::of(claim).place().filter(|place| place.granted).and_then(|place| place.own());
        for (claim, own) in round.granted.iter().filter(|(_, own)| !nodes.contains(own)) {
            // It may have got another node meanwhile.
            if still(claim).is_none_or(|still| still == *own) {
                renewal.not_held(claim);
            }
        }
        renewal.answer(RenewalOutcome::HeldSince(*since, carrier.ttl));
        if round.is_to_be_tidied() {
            self.mark(carrier, &round.granted);
            self.delete_orphans(carrier, nodes).await?;
        }
        Ok(())
    }

    /// Deletes what nobody claims any more. It comes after the reading of the nodes: who came later has nothing there.
    async fn delete_orphans(&self, carrier: &Arc<Carrier>, nodes: &HashSet<String>) -> Result<(), CallError> {
        let Some(session) = carrier.session() else { return Ok(()) };
        let holders: HashSet<Holder> = session.claims().iter().map(Claim::holder).collect();
        let is_orphan = |node: &&String| {
            let holder = self.names.split(node).and_then(|(_, child)| holder_of(child));
            holder.is_some_and(|holder| !holders.contains(&holder))
        };
        let wire = carrier.wire();
        let deleting = nodes.iter().filter(is_orphan).map(|node| {
            let node = node.clone();
            wire.ask(|client| delete(client, node, "deleting what nobody claims"))
        });
        for deleted in join_all(deleting).await {
            deleted?;
        }
        Ok(())
    }

    /// Writes into some nodes since when their holders have the locks, which was not known when they were made. It is for
    /// people, and nobody waits for it; who has written something else there meanwhile is not written over.
    fn mark(&self, carrier: &Arc<Carrier>, granted: &[(Claim, String)]) {
        let Ok(client) = carrier.wire().client() else { return };
        let unmarked = |claim: &Claim| Notes::of(claim).place().and_then(|place| place.unmarked);
        let due = granted.iter().filter_map(|(claim, own)| Some((claim, own, unmarked(claim)?)));
        for (claim, own, since) in due.take(MARKS) {
            drop(client.set_data(own, &Value::of(claim, carrier.ttl, Some(since)), Some(0)));
            Notes::of(claim).update(carrier, |place| place.unmarked = None);
        }
    }
}

/// The line of the lock with this node; nobody, if there is no such node. Where it must be what the quorum knows by now, the
/// server is brought up to it first; who has just written by the same session needs no such thing.
pub(crate) async fn line(client: &Client, folder: &str, sync: bool) -> Result<Line, CallError> {
    // They leave in this order, before either is answered.
    let sync = sync.then(|| client.sync(folder));
    let list = client.list_children(folder);
    let synced = match sync {
        Some(sync) => sync.await,
        None => Ok(()),
    };
    let judged = |failure| judge("looking at a lock", failure, false);
    synced.map_err(judged)?;
    match list.await {
        Ok(children) => Ok(Line::of(children)),
        Err(Failure::NoNode) => Ok(Line::of(Vec::new())),
        Err(failure) => Err(judged(failure)),
    }
}

/// Who comes into a line, and what is done beside it.
struct Coming {
    folder: String,
    path: String,
    value: Vec<u8>,
    acls: Acls<'static>,
    beside: Beside,
}

/// What became of it.
struct Came {
    created: Result<(Stat, CreateSequence), Failure>,
    looked: Option<Result<Arc<Line>, CallError>>,
    watcher: Option<OneshotWatcher>,
}

impl Coming {
    /// A session's requests are served in their order: the watch is there before the creation, and the look is at what
    /// the creation left.
    async fn come(self, client: Client) -> Result<Came, CallError> {
        let mode = CreateMode::EphemeralSequential.with_acls(self.acls);
        let watch = (self.beside == Beside::LookAndWatch).then(|| client.check_and_watch_stat(&self.folder));
        let create = client.create(&self.path, &self.value, &mode);
        let (created, looked) = match self.beside {
            Beside::Nothing => (create.await, None),
            Beside::Look | Beside::LookAndWatch => {
                let (created, line) = join(create, line(&client, &self.folder, false)).await;
                (created, Some(line.map(Arc::new)))
            }
        };
        let watcher = match watch {
            Some(watch) => watch.await.ok().and_then(|(stat, watcher)| stat.map(|_| watcher)),
            None => None,
        };
        Ok(Came { created, looked, watcher })
    }
}

/// Deletes a place's own node; gives whether it was there, and whether it was seen to be the first.
async fn left_by(place: &Place, wire: &Wire, own: String) -> Result<(bool, bool), CallError> {
    let found = wire.ask(|client| delete(client, own, "releasing")).await?;
    if let Some(alone) = place.alone.filter(|_| found) {
        place.carrier.emptied.left(&place.folder, alone);
    }
    Ok((found, false))
}

/// Deletes a node; gives whether it was there.
pub(crate) async fn delete(client: Client, path: String, doing: &'static str) -> Result<bool, CallError> {
    match client.delete(&path, None).await {
        Ok(()) => Ok(true),
        Err(Failure::NoNode) => Ok(false),
        Err(failure) => Err(judge(doing, failure, true)),
    }
}

/// Deletes whatever this holder has in the line; gives whether there was something, and whether it was the first. After
/// this on the claim's own session nothing of it can come any more: its requests are served in their order.
async fn delete_all(client: Client, folder: String, holder: Holder) -> Result<(bool, bool), CallError> {
    let line = line(&client, &folder, true).await?;
    let (mut any, mut first) = (false, false);
    for position in line.positions(holder) {
        let Some(contender) = line.at(position) else { continue };
        if delete(client.clone(), format!("{folder}/{}", contender.node), "releasing").await? {
            (any, first) = (true, first || position == 0);
        }
    }
    Ok((any, first))
}

/// A failure after the own node was made: it may stay.
fn may_stand(failed: CallError) -> CallError {
    let error = Error::new(failed.error.kind(), Effect::Unknown, failed.error.to_string());
    CallError { error, ..failed }
}

/// Who may touch what is made here: only this user, if the servers know one; else whoever reaches them.
async fn acls(client: &Client, is_known: bool, names: &Names) -> Result<Acls<'static>> {
    let known = match client.list_auth_users().await {
        Ok(users) => users.iter().any(|user| !["ip", "world"].contains(&user.scheme())),
        // Servers before 3.7 do not say.
        Err(Failure::Unimplemented) => is_known,
        Err(failure) => return Err(judge("connecting", failure, false).into()),
    };
    if is_known && !known {
        return Err(Error::refused(ErrorKind::Denied, "ZooKeeper does not know this user"));
    }
    let path = names.base();
    if !known {
        tracing::warn!(path, "nobody has logged in to ZooKeeper: whoever reaches it may delete these locks");
        return Ok(Acls::anyone_all());
    }
    match client.get_acl(path).await {
        Ok((acl, _)) if acl.iter().any(is_open) => {
            tracing::warn!(path, "anybody may delete nodes below this path of ZooKeeper, whatever is made below it");
        }
        Ok(_) | Err(Failure::NoNode | Failure::NoAuth) => {}
        Err(failure) => return Err(judge("connecting", failure, false).into()),
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
        Err(Failure::NoNode | Failure::NoAuth) => return Ok(1),
        config => config.map_err(|failure| judge("reading the ensemble", failure, false))?,
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
        self.links.whose().realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let notes = Notes::of(claim);
        match self.asked(claim, notes).await {
            Err(failed) if failed.session_is_gone => {
                // A new one is opened. What was on the old one goes with it, and must not stand in the way of its own holder
                // until then.
                if let Some(place) = notes.leave() {
                    place.carrier.end(&self.clock);
                    if place.in_doubt || place.node.is_some() {
                        Box::pin(self.left(claim, &place)).await?;
                    }
                }
                Ok(Box::pin(self.asked(claim, notes)).await?)
            }
            asked => Ok(asked?),
        }
    }

    async fn wait(&self, claim: &Claim, _held: &Contention) -> Result<()> {
        let notes = Notes::of(claim);
        let Some(place) = notes.place() else { return Ok(()) };
        let Some(before) = place.waits_for else { return Ok(()) };
        // The node ahead has no children and never will: this tells of its end, and of nothing else.
        let watch = |client: Client| async move {
            match client.list_and_watch_children(&before).await {
                Ok((_, watcher)) => Ok(Some(watcher)),
                Err(Failure::NoNode) => Ok(None),
                Err(failure) => Err(judge("waiting", failure, false)),
            }
        };
        if let Some(watcher) = place.carrier.wire().ask(watch).await? {
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
        let notes = Notes::of(claim);
        let Some(place) = notes.place() else { return Ok(ReleaseOutcome::NotHeld) };
        let left = self.left(claim, &place).await;
        match &left {
            Err(failed) if failed.session_is_gone => place.carrier.end(&self.clock),
            Err(_) => {}
            // The place stays noted: a request that was given up may still be on its way.
            Ok(_) => notes.update(&place.carrier, |place| (place.node, place.granted) = (None, false)),
        }
        Ok(left?)
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        self.inspected(name).await
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.listed(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.broken(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        let (reader, links) = (self.links.reader().await?, self.links.clone());
        Ok(reader.ask(|client| async move { Ok(links.whose().renew(&client).await?) }).await?)
    }
}

impl fmt::Debug for ZkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkStore")
            .field("links", &self.links)
            .field("path", &self.names.base())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
