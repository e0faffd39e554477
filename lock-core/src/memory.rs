//! [`MemoryStore`]: the reference model of the contract.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::sync::locked;
use crate::{
    Attempt, Beat, BreakMode, Claim, Clock, ClockKind, Contention, Effect, Error, ErrorKind, Eviction, Expiry, Faults,
    FencingToken, Guarantees, HeldBy, Holder, HolderInfo, Lease, LockName, LockStore, LossReason, Moment, RaiseOutcome,
    Realm, RecordStore, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Result, Retention, Session,
    StoredRecord, TokenRaiser, WaitStyle,
};

/// A store in this process's memory: for tests, for examples, and as the model that every other store is held against.
///
/// It excludes the tasks of one process, first come, first served, with fencing tokens. It survives nothing.
/// Cloning gives the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Memory>);

struct Memory {
    clock: Clock,
    realm: Mutex<Realm>,
    state: Mutex<State>,
    /// The sessions by TTL, if leases are carried by sessions.
    sessions: Option<Mutex<HashMap<Duration, Session>>>,
}

#[derive(Default)]
struct State {
    records: BTreeMap<LockName, Record>,
    /// Until when each session lasts.
    sessions: HashMap<u64, Moment>,
    /// The last token given: one counter for all names rises for each of them, and outlives every record.
    last_token: u64,
    last_session: u64,
    /// When it forgot everything, if it ever did.
    forgot: Option<Moment>,
    /// What it keeps for a quorum.
    kept: Option<String>,
}

/// A lock that is held or waited for.
#[derive(Default)]
struct Record {
    held: Option<Held>,
    queue: VecDeque<QueueEntry>,
}

struct Held {
    holder: Holder,
    info: HolderInfo,
    token: u64,
    since: Moment,
    until: LeaseEnd,
    revoked: bool,
}

struct QueueEntry {
    holder: Holder,
    until: LeaseEnd,
    called: Arc<Notify>,
}

#[derive(Clone, Copy)]
enum LeaseEnd {
    Moment(Moment),
    Session(u64),
}

/// What the store keeps with each claim.
#[derive(Default)]
struct ClaimState {
    /// The session that carries it.
    session: Mutex<Option<Session>>,
    called: Arc<Notify>,
    granted: AtomicBool,
}

impl MemoryStore {
    /// An empty store in a realm of its own; each lease has a TTL of its own.
    pub fn new() -> MemoryStore {
        MemoryStore::with_clock(Clock::system())
    }

    /// As [`MemoryStore::new`], on this clock.
    pub fn with_clock(clock: Clock) -> MemoryStore {
        MemoryStore::build(clock, None)
    }

    /// An empty store in which sessions carry the renewed leases, one session for each TTL, as in etcd and ZooKeeper.
    pub fn with_sessions(clock: Clock) -> MemoryStore {
        MemoryStore::build(clock, Some(Mutex::default()))
    }

    fn build(clock: Clock, sessions: Option<Mutex<HashMap<Duration, Session>>>) -> MemoryStore {
        let realm = Mutex::new(Realm::fresh("memory"));
        MemoryStore(Arc::new(Memory { clock, realm, state: Mutex::default(), sessions }))
    }

    /// Ends every session, as a server does that lost its clients' heartbeats; for tests.
    pub fn end_sessions(&self) {
        let Some(sessions) = &self.0.sessions else { return };
        locked(&self.0.state).sessions.clear();
        for (_, session) in locked(sessions).drain() {
            session.end(LossReason::SessionEnded);
        }
    }

    /// Loses all that it knows and begins a new realm, as a server does that writes nothing to a disk and is started
    /// again; for tests. From then on it remembers [for](Remembers::For) the time since.
    pub fn forget(&self) {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        *state = State { forgot: Some(now), ..State::default() };
        *locked(&self.0.realm) = Realm::fresh("memory");
        drop(state);
        self.end_sessions();
    }

    fn token(&self, number: u64) -> FencingToken {
        FencingToken::new(self.realm(), number)
    }

    /// The session that carries this claim; one that may end soon carries no further claims, and another is opened.
    fn session_for(&self, claim: &Claim) -> Option<Session> {
        let mut sessions = locked(self.0.sessions.as_ref().filter(|_| !claim.is_fixed())?);
        // Its holder believes in this one: whoever asks again, or late, must not move it to another.
        let own = claim.store_state(ClaimState::default);
        if let Some(session) = locked(&own.session).clone().filter(Session::is_valid) {
            return Some(session);
        }
        let usable = |session: &&Session| session.remaining() > claim.ttl() / 2;
        if let Some(session) = sessions.get(&claim.ttl()).filter(usable) {
            return Some(session.clone());
        }
        let opening = Session::start(&self.0.clock);
        let mut state = locked(&self.0.state);
        state.last_session += 1;
        let key = state.last_session;
        state.sessions.insert(key, self.0.clock.now().after(claim.ttl()));
        let session = opening.established(key, claim.ttl());
        sessions.insert(claim.ttl(), session.clone());
        Some(session)
    }

    fn held_by(&self, held: &Held, until: Moment) -> HeldBy {
        let now = self.0.clock.now();
        HeldBy {
            holder: Some(held.holder),
            info: Some(held.info.clone()),
            token: Some(self.token(held.token)),
            held_for: Some(now.since(held.since)),
            remaining: Some(until.since(now)),
            ahead: None,
            revoked: held.revoked,
        }
    }

    fn renew_lease(&self, claim: &Claim) -> RenewalOutcome {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(claim.name(), now);
        match state.held_mut(claim) {
            Some(held) => {
                held.until = LeaseEnd::Moment(now.after(claim.ttl()));
                RenewalOutcome::HeldFor(claim.ttl())
            }
            None => RenewalOutcome::NotHeld,
        }
    }

    /// The round of a session, in the order that [`Beat::Session`] asks for.
    fn renew_session(&self, renewal: &Renewal, session: &Session) {
        let granted = |claim: &Claim| claim.store_state(ClaimState::default).granted.load(Ordering::Acquire);
        let mut gone: Vec<_> = session.claims().into_iter().filter(granted).collect();
        let mut state = locked(&self.0.state);
        if !state.heartbeat(session, self.0.clock.now()) {
            drop(state);
            return renewal.answer(RenewalOutcome::NotHeld);
        }
        gone.retain(|claim| state.held_mut(claim).is_none());
        drop(state);
        // Before the answer, which would extend the belief in them.
        gone.iter().for_each(|claim| renewal.not_held(claim));
        renewal.answer(RenewalOutcome::HeldFor(session.ttl()));
        let mut state = locked(&self.0.state);
        // As they are now: what was written while nothing was locked belongs to a claim that was put on it before.
        let claims = session.claims();
        state.drop_orphans(session, &claims);
    }
}

impl State {
    fn until(&self, until: LeaseEnd) -> Moment {
        match until {
            LeaseEnd::Moment(moment) => moment,
            LeaseEnd::Session(key) => self.sessions.get(&key).copied().unwrap_or(Moment::from_nanos(0)),
        }
    }

    /// Forgets what has ended by `now`.
    fn expire(&mut self, name: &LockName, now: Moment) {
        let Some(mut record) = self.records.remove(name) else { return };
        record.held = record.held.filter(|held| self.until(held.until) > now);
        record.queue.retain(|place| self.until(place.until) > now);
        self.put_back(name, record);
    }

    fn put_back(&mut self, name: &LockName, record: Record) {
        if let Some(head) = record.queue.front().filter(|_| record.held.is_none()) {
            head.called.notify_one();
        }
        if record.held.is_some() || !record.queue.is_empty() {
            self.records.insert(name.clone(), record);
        }
    }

    /// Extends a session that has not ended; whether it had not.
    fn heartbeat(&mut self, session: &Session, now: Moment) -> bool {
        let until = self.sessions.get_mut(&session.key()).filter(|until| **until > now);
        match until {
            Some(until) => *until = now.after(session.ttl()),
            None => drop(self.sessions.remove(&session.key())),
        }
        self.sessions.contains_key(&session.key())
    }

    fn held_mut(&mut self, claim: &Claim) -> Option<&mut Held> {
        self.records.get_mut(claim.name())?.held.as_mut().filter(|held| held.holder == claim.holder())
    }

    /// Deletes what the session keeps for claims that nobody has any more.
    fn drop_orphans(&mut self, session: &Session, claims: &[Claim]) {
        let orphan = |until: LeaseEnd, holder: Holder| {
            matches!(until, LeaseEnd::Session(key) if key == session.key())
                && !claims.iter().any(|claim| claim.holder() == holder)
        };
        let has_orphan = |record: &Record| {
            record.held.as_ref().is_some_and(|held| orphan(held.until, held.holder))
                || record.queue.iter().any(|place| orphan(place.until, place.holder))
        };
        let names: Vec<_> = self.records.iter().filter(|(_, r)| has_orphan(r)).map(|(name, _)| name.clone()).collect();
        for name in names {
            if let Some(mut record) = self.records.remove(&name) {
                record.held = record.held.filter(|held| !orphan(held.until, held.holder));
                record.queue.retain(|place| !orphan(place.until, place.holder));
                self.put_back(&name, record);
            }
        }
    }
}

#[async_trait]
impl LockStore for MemoryStore {
    fn guarantees(&self) -> Guarantees {
        let expiry = match self.0.sessions {
            None => Expiry::Ttl(ClockKind::BootTime),
            Some(_) => Expiry::Session(ClockKind::BootTime),
        };
        Guarantees::NONE.tokens_survive(Faults::NONE).expiry(expiry).waiting(WaitStyle::Queued)
    }

    fn realm(&self) -> Realm {
        locked(&self.0.realm).clone()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let session = self.session_for(claim);
        let own = claim.store_state(ClaimState::default);
        if let Some(session) = &session {
            *locked(&own.session) = Some(session.clone());
            session.carry(claim);
        }
        let now = self.0.clock.now();
        let until = match &session {
            Some(session) => LeaseEnd::Session(session.key()),
            None => LeaseEnd::Moment(now.after(claim.ttl())),
        };

        let mut state = locked(&self.0.state);
        let remembers = match state.forgot {
            // It ends with its realm, so that there is nothing in this realm that it could have forgotten.
            None => Retention::Complete,
            Some(forgot) => Retention::Since(now.since(forgot)),
        };
        let lease = |number| match session.clone() {
            Some(session) => Lease::on_session(session, Some(self.token(number)), remembers),
            None => Lease::new(claim.ttl(), Some(self.token(number)), remembers),
        };
        let state = &mut *state;
        state.expire(claim.name(), now);
        if let Some(held) = state.held_mut(claim) {
            held.until = until;
            return Ok(Attempt::Granted(lease(held.token)));
        }
        let free = state.records.get(claim.name()).is_none_or(|record| {
            record.held.is_none() && record.queue.front().is_none_or(|head| head.holder == claim.holder())
        });
        if free {
            state.last_token += 1;
            let token = state.last_token;
            let record = state.records.entry(claim.name().clone()).or_default();
            record.queue.pop_front();
            record.held = Some(Held {
                holder: claim.holder(),
                info: claim.info().clone(),
                token,
                since: now,
                until,
                revoked: false,
            });
            own.granted.store(true, Ordering::Release);
            return Ok(Attempt::Granted(lease(token)));
        }
        let Some(record) = state.records.get_mut(claim.name()) else {
            return Err(Error::new(ErrorKind::Protocol, Effect::None, "BUG: a lock that is not free has a record"));
        };
        let mut ahead = record.queue.iter().position(|place| place.holder == claim.holder());
        if let Some(ahead) = ahead {
            record.queue[ahead].until = until;
        } else if claim.queues() {
            ahead = Some(record.queue.len());
            record.queue.push_back(QueueEntry { holder: claim.holder(), until, called: own.called.clone() });
        }
        let record = &state.records[claim.name()];
        let mut by = match &record.held {
            Some(held) => self.held_by(held, state.until(held.until)),
            None => record.queue.front().map(|head| HeldBy::holder(head.holder)).unwrap_or_default(),
        };
        by.ahead = ahead.map(|ahead| ahead as u32 + 1);
        // A place without a session lasts one TTL, and is kept by asking again.
        let look_again = by.remaining.unwrap_or(claim.ttl()).min(claim.ttl() / 3);
        let waiting = Contention::new(by, look_again);
        Ok(Attempt::Held(match session {
            Some(session) if claim.queues() => waiting.on_session(session),
            _ => waiting,
        }))
    }

    async fn wait(&self, claim: &Claim, _held: &Contention) -> Result<()> {
        claim.store_state(ClaimState::default).called.notified().await;
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        for renewal in batch {
            match renewal.of() {
                Beat::Lease(claim) => renewal.answer(self.renew_lease(claim)),
                Beat::Session(session) => self.renew_session(renewal, session),
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(claim.name(), now);
        let Some(mut record) = state.records.remove(claim.name()) else { return Ok(ReleaseOutcome::NotHeld) };
        record.queue.retain(|place| place.holder != claim.holder());
        let held = record.held.as_ref().is_some_and(|held| held.holder == claim.holder());
        if held {
            record.held = None;
        }
        state.put_back(claim.name(), record);
        Ok(if held { ReleaseOutcome::Held } else { ReleaseOutcome::NotHeld })
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(name, now);
        let held = state.records.get(name).and_then(|record| record.held.as_ref());
        Ok(held.map(|held| self.held_by(held, state.until(held.until))))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let now = self.0.clock.now();
        let state = locked(&self.0.state);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let held = state.records.range::<LockName, _>((from, Bound::Unbounded)).filter_map(|(name, record)| {
            let held = record.held.as_ref()?;
            let until = state.until(held.until);
            (until > now).then(|| (name.clone(), self.held_by(held, until)))
        });
        Ok(held.take(limit).collect())
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(name, now);
        let Some(mut record) = state.records.remove(name) else { return Ok(None) };
        let evicted = record.held.take_if(|held| Some(held.holder) == seen.holder);
        let broken = evicted.map(|held| {
            let until = state.until(held.until);
            state.last_token += 1;
            let token = state.last_token;
            let evicted = self.held_by(&held, until);
            if how == BreakMode::Revoke {
                record.held = Some(Held {
                    holder: Holder::fresh(),
                    token,
                    until: LeaseEnd::Moment(until),
                    revoked: true,
                    ..held
                });
            }
            let free_in = if how == BreakMode::Revoke { until.since(now) } else { Duration::ZERO };
            Eviction::new(evicted, Some(self.token(token)), free_in)
        });
        state.put_back(name, record);
        Ok(broken)
    }

    async fn new_realm(&self) -> Result<Realm> {
        let realm = Realm::fresh("memory");
        *locked(&self.0.realm) = realm.clone();
        Ok(realm)
    }
}

#[async_trait]
impl TokenRaiser for MemoryStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        if number == u64::MAX {
            return Err(Error::refused(ErrorKind::Protocol, "no token can follow the greatest number"));
        }
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(claim.name(), now);
        // The lease's own token is compared, and not the counter, which other names raise too.
        let Some(held) = state.held_mut(claim).filter(|held| held.token <= number) else {
            return Ok(RaiseOutcome::Refused);
        };
        held.token = number;
        state.last_token = state.last_token.max(number);
        Ok(RaiseOutcome::Raised)
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for MemoryStore {
    async fn read_record(&self) -> Result<StoredRecord> {
        let state = locked(&self.0.state);
        Ok(StoredRecord { realm: self.realm(), text: state.kept.clone() })
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        let mut state = locked(&self.0.state);
        if self.realm() != before.realm {
            return Ok(false);
        }
        if state.kept == before.text {
            state.kept = Some(text.to_owned());
        }
        Ok(state.kept.as_deref() == Some(text))
    }
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("realm", &self.realm()).finish_non_exhaustive()
    }
}
