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

use crate::batch::{Answered, Batches};
use crate::heartbeat::{Beaten, Heartbeats};
use crate::link::Lane;
use crate::members::{CallError, Called, Members, Turn};
use crate::names::Names;
use crate::place::{Notes, Place};
use crate::queue::{self, Key, Left, Otherwise, Seen};
use crate::realm::Data;
use crate::session::{Carrier, Sessions, grant};
use crate::slots::Slots;
use crate::value::Value;
use crate::watch::Watches;
use crate::{EtcdConfig, Proof};

/// Locks in etcd. The crate's documentation has the layout.
///
/// Handles are independent, as those of two processes are; all locks of one handle share its sessions and watches.
pub struct EtcdStore {
    pub(crate) members: Arc<Members>,
    pub(crate) names: Names,
    clock: Clock,
    /// Whose data these are; another realm is begun by an operator only.
    data: RwLock<Arc<Data>>,
    voters: usize,
    sessions: Arc<Sessions>,
    heartbeats: Heartbeats,
    watches: Watches,
    slots: Arc<Slots>,
}

/// A waiter looks again this often even if no hint came, since the watch may hang at a member that does.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// How many keys are read in one call: etcd takes transactions of up to 128 operations.
const TOGETHER: usize = 64;

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
        let names = Names::new(config.prefix);
        let list = |client: Arc<Client>| async move { client.cluster_client().member_list().await };
        let listed = members.call(Lane::Ask, "connecting", list).await?;
        let (one_cluster, data) = join(members.are_of_one_cluster(listed.member), Data::of(&members, &names)).await;
        one_cluster?;
        let data = RwLock::new(Arc::new(data?));
        let list = listed.value;
        let voters = list.members().iter().filter(|member| !member.is_learner()).count();
        Ok(EtcdStore {
            clock: clock.clone(),
            data,
            voters,
            sessions: Sessions::new(members.clone(), clock.clone()),
            heartbeats: Heartbeats { members: members.clone(), key: names.withdrawn_range().into_bytes() },
            watches: Watches::new(members.clone()),
            slots: Slots::new(),
            members,
            names,
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
    pub async fn proof(&self, name: &LockName, holder: lock_core::Holder) -> Result<Option<Proof>> {
        let head = self.head(name).await?;
        let is_holder =
            |key: &Key| Value::read(&key.value).is_some_and(|value| value.holder == holder && !value.revoked);
        let proof = |key: Key| Proof { key: key.key, create_revision: key.created, mod_revision: key.modified };
        Ok(head.filter(is_holder).map(proof))
    }

    /// A transaction that is safe to repeat.
    pub(crate) async fn transact(&self, lane: Lane, doing: &str, txn: Txn) -> Result<Called<TxnResponse>, CallError> {
        let turn = self.members.turn(lane, doing).await.map_err(CallError::of)?;
        self.transact_in(&turn, doing, txn).await
    }

    async fn transact_in(&self, turn: &Turn, doing: &str, txn: Txn) -> Result<Called<TxnResponse>, CallError> {
        let call = |client: Arc<Client>| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        self.members.call_in(turn, doing, call).await
    }

    fn data(&self) -> Arc<Data> {
        self.data.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The claim's place; where it has none, or what carried it has ended, a new one.
    async fn place(&self, claim: &Claim, notes: &Notes) -> Result<Place> {
        if let Some(place) = notes.place() {
            if place.may_stand() {
                // Boxed, here and elsewhere, so that the future of a request for a lock that is free stays small.
                return Box::pin(self.kept(claim, notes, place)).await;
            }
            // Its session is not believed in any more, yet its key may stand for a while.
            Box::pin(self.leave(claim, &place, None)).await?;
        }
        self.new_place(claim, notes).await
    }

    async fn new_place(&self, claim: &Claim, notes: &Notes) -> Result<Place> {
        let range = self.names.range(claim.name());
        let place = if claim.is_fixed() {
            let (lease, ttl) = Box::pin(grant(&self.members, claim.ttl())).await?;
            self.members.cluster().grants(claim);
            Place::new(range.clone(), self.slots.take(&range), claim, lease, ttl)
        } else {
            let carrier = self.sessions.for_ttl(claim.ttl()).await?;
            let slot = self.slots.take(&range);
            Place::new(range, slot, claim, carrier.lease, carrier.session.ttl()).on(carrier)
        };
        notes.take_place(place.clone());
        if let Some(carrier) = &place.carrier {
            // From here on what is written for the claim is no orphan.
            carrier.session.carry(claim);
        }
        Ok(place)
    }

    /// A place that the claim had before. A lease of its own starts anew, as the contract asks.
    async fn kept(&self, claim: &Claim, notes: &Notes, place: Place) -> Result<Place> {
        if let Some(carrier) = &place.carrier {
            carrier.session.carry(claim);
            return Ok(place);
        }
        match self.heartbeats.beat(&self.clock, place.lease, &Mutex::default()).await? {
            Beaten::Alive { .. } => Ok(place),
            Beaten::Gone => self.new_place(claim, notes).await,
        }
    }

    /// One look at the line, after taking a place in it where that is wanted and was not done before.
    async fn see(&self, claim: &Claim, notes: &Notes, place: &mut Place) -> Result<Seen, CallError> {
        if let Some(revision) = place.first_at.take() {
            notes.update(&place.key, |noted| noted.first_at = None);
            return Ok(queue::first_in_line(place, revision));
        }
        // What is asked depends on who is in line by the time of asking.
        let turn = self.members.turn(Lane::Ask, "asking for a lock").await.map_err(CallError::of)?;
        if place.created != 0 {
            let seen = Box::pin(self.look(&turn, place)).await?;
            if seen.own.as_ref().is_some_and(|own| own.created == place.created) {
                return Ok(seen);
            }
            // The key is gone, and the place in the line with it.
            (place.created, place.token) = (0, None);
            notes.update(&place.key, |noted| (noted.created, noted.token) = (0, None));
        }
        if claim.queues()
            && !notes.is_unclear()
            && let Some(seen) = Box::pin(self.follow(&turn, claim, notes, place)).await?
        {
            return Ok(seen);
        }
        // A lock that nobody waits for is likely to be free: it is not worth asking for a place in its line at once, unless
        // the answer to such a request was lost before.
        if claim.queues() && !notes.is_unclear() && !self.watches.has(&place.range) {
            let seen = self.enter(&turn, claim, notes, place, Otherwise::Nothing).await?;
            if seen.own.is_some() {
                return Ok(seen);
            }
        }
        let otherwise = if claim.queues() { Otherwise::Join } else { Otherwise::Look };
        Box::pin(self.enter(&turn, claim, notes, place, otherwise)).await
    }

    /// Looks again where a claim stands.
    async fn look(&self, turn: &Turn, place: &Place) -> Result<Seen, CallError> {
        let data = self.data();
        let transact = async |txn| {
            let looked = self.transact_in(turn, "looking at a lock", txn).await?.value;
            data.check(&self.members, &looked).map_err(CallError::of)?;
            Ok::<_, CallError>(looked)
        };
        let known = place.waits_far().map(|(key, created)| (key.to_vec(), created));
        let other = self.watches.before(place).filter(|other| known.is_some() && known.as_ref() != Some(other));
        for (before, created) in known.into_iter().chain(other) {
            let glanced = transact(queue::glance(place, &data, &before)).await?;
            if let Some(seen) = queue::unchanged(place, created, &glanced) {
                return Ok(seen);
            }
        }
        let looked = transact(queue::look(place, &data)).await?;
        queue::read(place, &looked).map_err(CallError::of)
    }

    /// Takes a place behind a crowd of this process, if there is one.
    async fn follow(
        &self,
        turn: &Turn,
        claim: &Claim,
        notes: &Notes,
        place: &mut Place,
    ) -> Result<Option<Seen>, CallError> {
        let Some((before, created, told)) = self.watches.crowd(&place.range) else { return Ok(None) };
        let (withdrawn, data) = (self.names.withdrawn(place.lease, claim.holder()), self.data());
        let follow = queue::follow(place, &data, &before, &withdrawn);
        let followed = self.ask(turn, notes, &data, follow).await?;
        let Some(seen) = queue::followed(place, created, &followed) else { return Ok(None) };
        (place.created, place.told) = (seen.revision, told);
        notes.update(&place.key, |noted| noted.created = seen.revision);
        // Where the one before has gone, who is before now is for a whole look to say.
        if seen.before.is_some() { Ok(Some(seen)) } else { self.look(turn, place).await.map(Some) }
    }

    /// A transaction that may take a place.
    async fn ask(&self, turn: &Turn, notes: &Notes, data: &Data, txn: Txn) -> Result<TxnResponse, CallError> {
        let asked = self.transact_in(turn, "asking for a lock", txn).await;
        match &asked {
            Ok(called) => notes.set_unclear(called.cut_off),
            Err(failed) => notes.set_unclear(failed.error.may_have_taken_effect()),
        }
        let asked = asked?.value;
        data.check(&self.members, &asked).map_err(CallError::of)?;
        Ok(asked)
    }

    async fn enter(
        &self,
        turn: &Turn,
        claim: &Claim,
        notes: &Notes,
        place: &Place,
        otherwise: Otherwise,
    ) -> Result<Seen, CallError> {
        let (withdrawn, data) = (self.names.withdrawn(place.lease, claim.holder()), self.data());
        let enter = queue::enter(place, &data, otherwise, &withdrawn);
        let entered = self.ask(turn, notes, &data, enter).await?;
        queue::read(place, &entered).map_err(CallError::of)
    }

    /// What `seen` means for the claim.
    fn attempt(&self, claim: &Claim, notes: &Notes, place: &Place, seen: Seen) -> Attempt {
        let own = seen.own.as_ref().filter(|own| place.is_own(own));
        let first = own.is_some_and(|own| seen.head.as_ref().is_some_and(|head| head.key == own.key));
        let mut token = None;
        let waits_for = seen.before.as_ref().filter(|_| own.is_some()).or(seen.head.as_ref());
        notes.update(&place.key, |noted| {
            noted.created = own.map_or(0, |own| own.created);
            noted.waits_for = waits_for.map(|key| (key.key.clone(), key.created));
            if first {
                token = Some(*noted.token.get_or_insert(seen.revision.unsigned_abs()));
            }
        });
        let session = place.carrier.as_ref().map(|carrier| carrier.session.clone());
        if let Some(token) = token {
            let token = Some(FencingToken::new(self.realm(), token));
            return Attempt::Granted(match session {
                // Etcd syncs every write before it answers.
                Some(session) => Lease::on_session(session, token, Retention::Complete),
                None => Lease::new(place.ttl, token, Retention::Complete),
            });
        }
        // A glance does not see the head of the line.
        let mut by = seen.head.as_ref().map_or_else(|| place.told.clone(), |head| self.held_by(head));
        by.ahead = seen.ahead.or(place.told.ahead);
        notes.update(&place.key, |noted| noted.told = by.clone());
        // A place without a session is kept by asking again.
        let look_again = if session.is_some() { LOOK_AGAIN.min(place.ttl) } else { place.ttl / 3 };
        let waiting = Contention::new(by, look_again).with_version(seen.revision.unsigned_abs());
        Attempt::Held(match session {
            Some(session) if claim.queues() => waiting.on_session(session),
            _ => waiting,
        })
    }

    /// Who holds a lock, as its key says.
    pub(crate) fn held_by(&self, head: &Key) -> HeldBy {
        let Some(value) = Value::read(&head.value) else {
            let mut by = HeldBy::default();
            by.info = Some(crate::operator::stranger(head));
            return by;
        };
        let mut by = HeldBy::holder(value.holder);
        by.held_for = value.held_for();
        by.revoked = value.revoked;
        // Who had to queue was granted the lock at a revision that its key does not show.
        let shown = !value.queued && !value.revoked;
        by.token = shown.then(|| FencingToken::new(self.realm(), head.created.unsigned_abs()));
        by.info = Some(value.info);
        by
    }

    /// Gives the place up; `mark` is left for a request that comes late.
    async fn leave(&self, claim: &Claim, place: &Place, mark: Option<&[u8]>) -> Result<ReleaseOutcome> {
        self.watches.left(place);
        let leaving = self.watches.leaving(&place.range, &place.key);
        let leave = queue::leave(place, mark, leaving.is_some());
        let answered = match self.send_leave(place, leave).await {
            Ok(answered) => answered,
            // The mark's lease has ended: what was on it is gone with it, and nothing can come.
            Err(failed) if failed.lease_is_gone => {
                place.set_gone(true);
                return Ok(ReleaseOutcome::NotHeld);
            }
            Err(failed) => return Err(failed.error),
        };
        if let (Some(leaving), Some(head)) = (leaving, queue::handed_over(&answered.response)) {
            leaving.done(answered.revision, head);
        }
        if place.carrier.is_none() {
            Box::pin(self.revoke(place.lease)).await;
        }
        let left = queue::left(place, &answered.response);
        // Where its key was not found, an operator may have put it on another lease.
        let is_gone = left != Left::Nothing || place.created == 0;
        place.set_gone(is_gone && !claim.is_in_doubt() && !Notes::of(claim).is_unclear());
        match left {
            Left::Holding => Ok(ReleaseOutcome::Held),
            // A try before this one may have found it, and its answer was lost.
            Left::Nothing if answered.cut_off && place.token.is_some() => {
                let text = format!("\"{}\" is released; whether it was held until now is unknown", claim.name());
                Err(Error::new(ErrorKind::TimedOut, Effect::Unknown, text))
            }
            Left::Waiting | Left::Nothing => Ok(ReleaseOutcome::NotHeld),
        }
    }

    /// Sends a release: at once if a turn is free, else with others.
    async fn send_leave(&self, place: &Place, leave: Txn) -> Result<Answered, CallError> {
        match self.members.turn_now(Lane::Leave).map_err(CallError::of)? {
            Some(turn) => self.transact_in(&turn, "releasing", leave).await.map(Answered::from),
            None => Box::pin(Batches::send(&self.members, &place.range, leave)).await,
        }
    }

    /// Ends an etcd lease that nobody needs any more. If it fails, the lease ends by itself.
    pub(crate) async fn revoke(&self, lease: i64) {
        let revoke = |client: Arc<Client>| async move { client.lease_client().revoke(lease).await };
        if let Err(failed) = self.members.call(Lane::Leave, "ending a lease", revoke).await {
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
                let carrier = self.sessions.of(session);
                let carrier = carrier.ok_or_else(|| crate::error::protocol("BUG: a session of another store"))?;
                self.renew_session(batch.clock(), renewal, &carrier).await?;
            }
        }
        Ok(())
    }

    async fn renew_lease(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let Some(place) = Notes::of(claim).place() else { return Ok(RenewalOutcome::NotHeld) };
        match self.heartbeats.beat(clock, place.lease, &Mutex::default()).await? {
            Beaten::Alive { since, ttl } if self.is_there(&place).await? => Ok(RenewalOutcome::HeldSince(since, ttl)),
            _ => Ok(RenewalOutcome::NotHeld),
        }
    }

    /// One round of a session: a heartbeat, and a look at what is still on it. The look comes before the answer, so that
    /// a lease whose key was broken is lost before the session is believed in any longer.
    async fn renew_session(&self, clock: &Clock, renewal: &Renewal, carrier: &Carrier) -> Result<()> {
        let ended = || {
            carrier.session.end(LossReason::SessionEnded);
            renewal.answer(RenewalOutcome::NotHeld);
        };
        // Before the reading: a claim that is granted during it may be missing there.
        let granted = placed(carrier, |place| place.token.is_some());
        let Beaten::Alive { since, ttl } = self.heartbeats.beat(clock, carrier.lease, &carrier.stream).await? else {
            ended();
            return Ok(());
        };
        let Some(keys) = self.keys_of(carrier.lease).await? else {
            ended();
            return Ok(());
        };
        carrier.weigh(keys.iter().map(Vec::len).sum());
        let keys: HashSet<_> = keys.into_iter().collect();
        // The list comes from a leader that may lag a little, so each loss is read again: it is final.
        let is_missing =
            |(claim, place): &&(Claim, Place)| !keys.contains(&place.key) && !Notes::of(claim).is_given_back();
        let missing: Vec<_> = granted.iter().filter(is_missing).collect();
        let found = self.read_keys(Lane::Beat, missing.iter().map(|(_, place)| &place.key[..])).await?;
        for ((claim, place), key) in missing.into_iter().zip(found) {
            if !key.is_some_and(|key| place.is_own(&key)) {
                renewal.not_held(claim);
            }
        }
        renewal.answer(RenewalOutcome::HeldSince(since, ttl));
        let marks = self.names.withdrawn_range();
        let claimed = keys_claimed(carrier);
        let is_orphan = |key: &&Vec<u8>| !claimed.contains(*key) && !key.starts_with(marks.as_bytes());
        self.delete_orphans(carrier, keys.iter().filter(is_orphan).map(|key| &key[..])).await
    }

    /// Deletes the keys that no claim owns. A key is used again, so the claims are asked after the keys were read: whoever
    /// has one by then is left alone, and who takes it later makes it anew.
    async fn delete_orphans<'a>(&self, carrier: &Carrier, keys: impl Iterator<Item = &'a [u8]>) -> Result<()> {
        let found = self.read_keys(Lane::Leave, keys).await?;
        let claimed = keys_claimed(carrier);
        let is_orphan = |key: &Key| key.lease == carrier.lease && !claimed.contains(&key.key);
        let delete = |key: Key| async move {
            let unchanged = Compare::create_revision(&key.key[..], CompareOp::Equal, key.created);
            let delete = Txn::new().when([unchanged]).and_then([TxnOp::delete(key.key, None)]);
            self.transact(Lane::Leave, "deleting what nobody claims", delete).await.map(drop)
        };
        try_join_all(found.into_iter().flatten().filter(is_orphan).map(delete)).await?;
        Ok(())
    }

    /// The keys on a lease; `None` if there is no such lease.
    async fn keys_of(&self, lease: i64) -> Result<Option<Vec<Vec<u8>>>> {
        let read = |client: Arc<Client>| async move {
            let keys = etcd_client::LeaseTimeToLiveOptions::new().with_keys();
            client.lease_client().time_to_live(lease, Some(keys)).await
        };
        let read = self.members.call(Lane::Beat, "reading what a session has", read).await?.value;
        Ok((read.ttl() > 0).then(|| read.keys().to_vec()))
    }

    /// These keys, in the order of asking, some tens in each call.
    async fn read_keys<'a>(&self, lane: Lane, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Option<Key>>> {
        let keys: Vec<_> = keys.collect();
        let read = |keys: &[&[u8]]| {
            let get = keys.iter().map(|key| TxnOp::get(*key, None)).collect::<Vec<_>>();
            async move {
                let read = self.transact(lane, "reading keys", Txn::new().and_then(get)).await?.value;
                Ok::<_, Error>(queue::firsts(&read))
            }
        };
        let read = try_join_all(keys.chunks(TOGETHER).map(read)).await?.concat();
        if read.len() != keys.len() {
            return Err(crate::error::protocol("a transaction of etcd has other answers than questions"));
        }
        Ok(read)
    }

    /// Whether this claim's key is there, and its own.
    async fn is_there(&self, place: &Place) -> Result<bool> {
        let found = self.read_keys(Lane::Beat, [&place.key[..]].into_iter()).await?;
        Ok(found.into_iter().flatten().any(|key| place.is_own(&key)))
    }
}

/// The keys that claims of this session own.
fn keys_claimed(carrier: &Carrier) -> HashSet<Vec<u8>> {
    placed(carrier, |_| true).into_iter().map(|(_, place)| place.key).collect()
}

/// The claims of a session with their places, as far as these are such.
fn placed(carrier: &Carrier, such: impl Fn(&Place) -> bool) -> Vec<(Claim, Place)> {
    let place = |claim: Claim| {
        let place = Notes::of(&claim).place().filter(|place| place.lease == carrier.lease && such(place))?;
        Some((claim, place))
    };
    carrier.session.claims().into_iter().filter_map(place).collect()
}

#[async_trait]
impl LockStore for EtcdStore {
    fn guarantees(&self) -> Guarantees {
        EtcdStore::guarantees_of(self.voters)
    }

    fn realm(&self) -> Realm {
        self.data().realm.clone()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let notes = Notes::of(claim);
        notes.set_given_back(false);
        for last in [false, true] {
            let mut place = self.place(claim, notes).await?;
            match self.see(claim, notes, &mut place).await {
                Ok(seen) => return Ok(self.attempt(claim, notes, &place, seen)),
                Err(failed) if failed.lease_is_gone && !last => {
                    // The server has ended it, and with it all that was on it; a new one is opened.
                    place.set_gone(true);
                    if let Some(carrier) = &place.carrier {
                        carrier.session.end(LossReason::SessionEnded);
                    }
                    notes.leave();
                }
                Err(failed) => return Err(failed.error),
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, "etcd ended two sessions in a row at once"))
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let notes = Notes::of(claim);
        let Some(place) = notes.place() else { return Ok(()) };
        let seen = i64::try_from(held.version).unwrap_or(i64::MAX);
        let next = self.watches.gone(&place, seen).await?;
        if let Some(next) = next.filter(|next| place.is_at(&next.head)) {
            // One transaction has read that the key stands and is the first, as a look of its own would.
            notes.update(&place.key, |noted| {
                noted.first_at = Some(next.revision).filter(|_| noted.created == place.created)
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
        self.members.cluster().forgets(claim);
        let notes = Notes::of(claim);
        notes.set_given_back(true);
        let Some(place) = notes.place() else { return Ok(ReleaseOutcome::NotHeld) };
        let unclear = (claim.is_in_doubt() || notes.is_unclear()) && place.carrier.is_some();
        let mark = unclear.then(|| self.names.withdrawn(place.lease, claim.holder()));
        self.leave(claim, &place, mark.as_deref()).await
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
        let new = self.data().begin_realm(&self.members).await?;
        let realm = new.realm.clone();
        *self.data.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(realm)
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("members", &self.members)
            .field("prefix", &self.names.prefix())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
