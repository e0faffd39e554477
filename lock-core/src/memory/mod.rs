//! [`MemoryStore`]: the reference model of the contract.

mod diagnose;
mod driver;
mod session;
mod shared;
mod state;

use std::fmt;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

pub use self::driver::MemoryDriver;
use self::session::{ClaimState, MemorySession};
use self::shared::Memory;
use self::state::{Held, LeaseEnd, State};
use crate::contract::{
    Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Lease, LockStore, Publisher, RaiseOutcome,
    RecordStore, ReleaseOutcome, RenewalBatch, Retention, StoredRecord, TokenRaiser,
};
use crate::kit::Sessions;
use crate::sync::locked;
use crate::words::{
    Clock, ClockKind, Error, ErrorKind, Expiry, Faults, FencingToken, Guarantees, HeldBy, Holder, LockName, LossReason,
    Moment, Realm, Result, Space, WaitStyle,
};

/// A store in this process's memory: for tests, for examples, and as the reference model for every
/// other store.
///
/// It excludes the tasks of one process, first come, first served, with fencing tokens. It survives
/// no fault. Cloning gives the same store.
#[derive(Clone)]
pub struct MemoryStore(Arc<Memory>);

impl MemoryStore {
    /// An empty store in a realm of its own; each lease has a TTL of its own.
    pub fn new() -> MemoryStore {
        MemoryStore::with_clock(Clock::system())
    }

    /// As [`MemoryStore::new`], on this clock.
    pub fn with_clock(clock: Clock) -> MemoryStore {
        MemoryStore::build(clock, None)
    }

    /// An empty store in which sessions carry the renewed leases, one session for each TTL, as in
    /// etcd and ZooKeeper.
    pub fn with_sessions(clock: Clock) -> MemoryStore {
        MemoryStore::build(clock, Some(Sessions::new()))
    }

    fn build(clock: Clock, sessions: Option<Sessions<Memory>>) -> MemoryStore {
        let realm = Mutex::new(Realm::fresh("memory"));
        MemoryStore(Arc::new(Memory { clock, realm, state: Mutex::default(), sessions }))
    }

    /// Ends every session, as a server does that gets no heartbeats; for tests.
    pub fn end_sessions(&self) {
        let Some(sessions) = &self.0.sessions else { return };
        locked(&self.0.state).sessions.clear();
        sessions.end_all(LossReason::SessionEnded);
    }

    /// Loses its whole state and starts a new realm, as a server without persistence does at a
    /// restart; for tests. From then on its [`Retention`] is the time since.
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

    /// The session that carries this claim, with the claim on it; `None` for a lease with a TTL of
    /// its own.
    async fn session_for(&self, claim: &Claim) -> Result<Option<Arc<MemorySession>>> {
        let Some(sessions) = self.0.sessions.as_ref().filter(|_| !claim.is_fixed()) else { return Ok(None) };
        let own = claim.store_state(ClaimState::default);
        // The holder's belief rests on this session: a retry or a late request must not move the
        // claim to another.
        let carrying = locked(&own.session).clone().filter(|handle| handle.session.is_valid());
        let handle = match carrying {
            Some(handle) => handle,
            None => sessions.for_ttl(&self.0, claim.ttl()).await?,
        };
        *locked(&own.session) = Some(handle.clone());
        handle.session.carry(claim);
        Ok(Some(handle))
    }

    fn held_by(&self, held: &Held, until: Moment) -> HeldBy {
        let now = self.0.clock.now();
        HeldBy {
            holder: Some(held.holder),
            info: Some(held.info.clone()),
            token: Some(self.token(held.token)),
            held_for: Some(now.since(held.since)),
            remaining: Some(until.since(now)),
            revoked: held.revoked,
            ..HeldBy::default()
        }
    }

    fn contention(&self, state: &State, claim: &Claim, ahead: Option<usize>) -> Contention {
        let record = &state.records[claim.name()];
        let mut by = match &record.held {
            Some(held) => self.held_by(held, state.until(held.until)),
            None => record.queue.front().map(|head| HeldBy::holder(head.holder)).unwrap_or_default(),
        };
        by.ahead = ahead.map(|ahead| ahead as u32 + 1);
        // An entry without a session lasts one TTL; each retry extends it.
        let retry_after = by.remaining.unwrap_or(claim.ttl()).min(claim.ttl() / 3);
        Contention::new(by, retry_after)
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
        let session = self.session_for(claim).await?;
        let own = claim.store_state(ClaimState::default);
        let now = self.0.clock.now();
        let until = match &session {
            Some(handle) => LeaseEnd::Session(handle.id),
            None => LeaseEnd::Moment(now.after(claim.ttl())),
        };

        let mut state = locked(&self.0.state);
        let retention = match state.forgot {
            // The realm ends with the store, so that there is no grant of this realm that it could
            // have forgotten.
            None => Retention::Complete,
            Some(forgot) => Retention::Since(now.since(forgot)),
        };
        state.expire(claim.name(), now);
        if let Some(number) = state.grant(claim, now, until) {
            own.granted.store(true, Ordering::Release);
            let token = Some(self.token(number));
            return Ok(Attempt::Granted(match session {
                Some(handle) => Lease::on_session(handle.session.clone(), token, retention),
                None => Lease::new(claim.ttl(), token, retention),
            }));
        }
        let ahead = state.enqueue(claim, until, &own.wakeup);
        let contention = self.contention(&state, claim, ahead);
        Ok(Attempt::Held(match session {
            Some(handle) if claim.queues() => contention.on_session(handle.session.clone()),
            _ => contention,
        }))
    }

    async fn wait(&self, claim: &Claim, _held: &Contention) -> Result<()> {
        claim.store_state(ClaimState::default).wakeup.notified().await;
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        if let Some(sessions) = &self.0.sessions {
            return sessions.renew_batch(&self.0, batch).await;
        }
        batch.leases().for_each(|(renewal, claim)| renewal.answer(self.0.renew_lease(claim)));
        Ok(())
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(claim.name(), now);
        let Some(mut record) = state.records.remove(claim.name()) else { return Ok(ReleaseOutcome::NotHeld) };
        record.queue.retain(|entry| entry.holder != claim.holder());
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

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        let now = self.0.clock.now();
        let mut state = locked(&self.0.state);
        state.expire(name, now);
        let held = state.records.get(name).and_then(|record| record.held.as_ref());
        Ok(held.map(|held| self.held_by(held, state.until(held.until))).into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let now = self.0.clock.now();
        let state = locked(&self.0.state);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let held = state.records.range::<LockName, _>((from, Bound::Unbounded)).filter_map(|(name, record)| {
            let held = record.held.as_ref()?;
            let until = state.until(held.until);
            (until > now).then(|| (name.clone(), vec![self.held_by(held, until)]))
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

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        Ok(self.findings())
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
        // The lease's own token is compared, not the counter, which grants of other names raise
        // too.
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
