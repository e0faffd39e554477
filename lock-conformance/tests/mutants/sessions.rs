//! [`Sessions`]: a store whose sessions carry the leases, with one flaw in the protocol of sessions.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lock_conformance::{Deployment, Factory, Failure, async_trait};
use lock_core::{
    Attempt, BreakMode, Claim, Clock, ClockKind, Contention, Converter, Eviction, Expiry, Faults, FencingToken,
    Finding, Guarantees, HeldBy, Holder, HolderInfo, Lease, LockName, LockStore, Moment, Publisher, Realm,
    ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Result, Retention, Session, Space, TokenRaiser, WaitStyle,
};

use super::session_flaw::SessionFlaw;

/// Latency of an answer.
const LATENCY: Duration = Duration::from_millis(30);

/// A store in memory whose sessions carry the leases: the open sessions of one process, and the
/// server that all share.
#[derive(Clone, Debug)]
pub(crate) struct Sessions {
    flaw: SessionFlaw,
    clock: Clock,
    server: Arc<Mutex<Server>>,
    sessions: Arc<Mutex<HashMap<Duration, Session>>>,
}

#[derive(Debug)]
struct Server {
    realm: Realm,
    records: BTreeMap<LockName, Record>,
    sessions: HashMap<u64, Moment>,
    count: u64,
    /// The losses that the last round found, for the round after it.
    last_losses: Vec<Holder>,
}

#[derive(Clone, Debug)]
struct Record {
    holder: Holder,
    info: HolderInfo,
    token: u64,
    since: Moment,
    until: Until,
    revoked: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Until {
    Moment(Moment),
    Session(u64),
}

/// State of a claim: the session that carries it, and whether it was granted.
#[derive(Default)]
struct ClaimState {
    session: Mutex<Option<Session>>,
    granted: AtomicBool,
}

impl Sessions {
    pub(crate) fn new(flaw: SessionFlaw) -> Sessions {
        let server = Server {
            realm: Realm::fresh("sessions"),
            records: BTreeMap::new(),
            sessions: HashMap::new(),
            count: 0,
            last_losses: Vec::new(),
        };
        Sessions { flaw, clock: Clock::system(), server: Arc::new(Mutex::new(server)), sessions: Arc::default() }
    }

    /// Opens a handle with its own sessions, as another process would.
    fn open(&self) -> Sessions {
        Sessions { sessions: Arc::default(), ..self.clone() }
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        let mut server = self.server.lock().unwrap();
        server.expire(self.clock.now());
        server
    }

    async fn session_for(&self, claim: &Claim) -> Option<Session> {
        if claim.is_fixed() {
            return None;
        }
        let reuses = self.flaw != SessionFlaw::SessionIsChangedByAskingAgain;
        let carrying = claim.store_state(ClaimState::default).session.lock().unwrap().clone();
        if let Some(session) = carrying.filter(|session| reuses && session.is_valid()) {
            return Some(session);
        }
        let is_usable = |session: &&Session| session.remaining() > claim.ttl() / 2;
        if let Some(session) = self.sessions.lock().unwrap().get(&claim.ttl()).filter(is_usable) {
            return Some(session.clone());
        }
        let mut pending = Session::start(&self.clock);
        let key = self.server().open_session(self.clock.now().after(claim.ttl()));
        if self.flaw == SessionFlaw::SessionCountsFromItsOpening {
            tokio::time::sleep((claim.ttl() / 4).min(3 * LATENCY)).await;
            pending = Session::start(&self.clock);
        }
        let session = pending.established(key, claim.ttl());
        self.sessions.lock().unwrap().insert(claim.ttl(), session.clone());
        Some(session)
    }

    fn held_by(&self, server: &Server, record: &Record) -> HeldBy {
        let now = self.clock.now();
        let mut by = HeldBy::holder(record.holder);
        by.info = Some(record.info.clone());
        by.token = Some(FencingToken::new(server.realm.clone(), record.token));
        by.held_for = Some(now.since(record.since));
        by.remaining = server.end_of(record.until).map(|until| until.since(now));
        by.revoked = record.revoked;
        by
    }

    /// The renewal round of a session.
    async fn round(&self, renewal: &Renewal, session: &Session) {
        let granted = |claim: &Claim| claim.store_state(ClaimState::default).granted.load(Ordering::SeqCst);
        let claims = session.claims();
        if !self.extend(session) {
            return renewal.answer(RenewalOutcome::NotHeld);
        }
        let lost: Vec<Claim> = {
            let server = self.server();
            claims.iter().filter(|claim| granted(claim) && !server.has(claim)).cloned().collect()
        };
        self.answer(renewal, session, &claims, lost).await;
        let outdated = self.flaw == SessionFlaw::SessionDropsWhatALiveClaimOwns;
        if outdated {
            tokio::time::sleep(LATENCY).await;
        }
        self.delete_orphans(session, outdated.then_some(claims));
    }

    /// Extends a session; returns whether it was still there.
    fn extend(&self, session: &Session) -> bool {
        let until = self.clock.now().after(session.ttl());
        match self.server().sessions.get_mut(&session.key()) {
            Some(_) if self.flaw == SessionFlaw::SessionIsNotExtended => true,
            Some(end) => {
                *end = until;
                true
            }
            None => false,
        }
    }

    /// Reports the lost claims and answers the renewal.
    async fn answer(&self, renewal: &Renewal, session: &Session, claims: &[Claim], lost: Vec<Claim>) {
        let answer = RenewalOutcome::HeldFor(session.ttl());
        let report = |lost: &[Claim]| lost.iter().for_each(|claim| renewal.not_held(claim));
        match self.flaw {
            SessionFlaw::SessionAnswersBeforeTheLosses => {
                renewal.answer(answer);
                tokio::time::sleep(10 * LATENCY).await;
                report(&lost);
            }
            SessionFlaw::SessionReportsTheRoundBefore => {
                let holders: Vec<_> = lost.iter().map(Claim::holder).collect();
                let before = std::mem::replace(&mut self.server().last_losses, holders);
                report(&lost.into_iter().filter(|claim| before.contains(&claim.holder())).collect::<Vec<_>>());
                renewal.answer(answer);
            }
            SessionFlaw::SessionReportsNoLosses => renewal.answer(answer),
            SessionFlaw::SessionIsLostWithOneLease if !lost.is_empty() => {
                report(claims);
                renewal.answer(answer);
            }
            SessionFlaw::SessionCountsFromTheAnswer => {
                tokio::time::sleep(session.ttl() / 4).await;
                report(&lost);
                renewal.answer(RenewalOutcome::HeldFor(session.ttl() + session.ttl() / 4));
            }
            _ => {
                report(&lost);
                renewal.answer(answer);
            }
        }
    }

    /// Deletes the records of the session that belong to none of its claims: by default its claims
    /// of now, which are read while the server is locked, so that nothing is granted in between.
    fn delete_orphans(&self, session: &Session, claims: Option<Vec<Claim>>) {
        let mut server = self.server();
        let claims = claims.unwrap_or_else(|| session.claims());
        let is_owned = |record: &Record| claims.iter().any(|claim| claim.holder() == record.holder);
        match self.flaw {
            SessionFlaw::SessionKeepsOrphans => {}
            SessionFlaw::SessionDropsWhatOthersOwn => server.records.retain(|_, record| is_owned(record)),
            _ => server.records.retain(|_, record| record.until != Until::Session(session.key()) || is_owned(record)),
        }
    }
}

fn carry(session: &Session, claim: &Claim) {
    *claim.store_state(ClaimState::default).session.lock().unwrap() = Some(session.clone());
    session.carry(claim);
}

impl Server {
    fn open_session(&mut self, until: Moment) -> u64 {
        self.count += 1;
        self.sessions.insert(self.count, until);
        self.count
    }

    /// The end of a lease; `None` if its session has ended.
    fn end_of(&self, until: Until) -> Option<Moment> {
        match until {
            Until::Moment(moment) => Some(moment),
            Until::Session(key) => self.sessions.get(&key).copied(),
        }
    }

    fn expire(&mut self, now: Moment) {
        self.sessions.retain(|_, until| *until > now);
        let mut records = std::mem::take(&mut self.records);
        records.retain(|_, record| self.end_of(record.until).is_some_and(|until| until > now));
        self.records = records;
    }

    fn has(&self, claim: &Claim) -> bool {
        self.records.get(claim.name()).is_some_and(|record| record.holder == claim.holder())
    }
}

#[async_trait]
impl LockStore for Sessions {
    fn guarantees(&self) -> Guarantees {
        let expiry = Expiry::Session(ClockKind::BootTime);
        Guarantees::NONE.tokens_survive(Faults::NONE).expiry(expiry).waiting(WaitStyle::Polled)
    }

    fn realm(&self) -> Realm {
        self.server().realm.clone()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let session = self.session_for(claim).await;
        let late = self.flaw == SessionFlaw::SessionDropsWhatWasCarriedLate;
        if let Some(session) = session.as_ref().filter(|_| !late) {
            carry(session, claim);
        }
        let now = self.clock.now();
        let until = match &session {
            Some(session) => Until::Session(session.key()),
            None => Until::Moment(now.after(claim.ttl())),
        };
        if self.flaw == SessionFlaw::SessionNeverEnds
            && let Until::Session(key) = until
        {
            self.server().sessions.insert(key, now.after(claim.ttl() * 100));
        }
        let attempt = {
            let mut server = self.server();
            match server.records.get(claim.name()) {
                Some(record) if record.holder != claim.holder() => {
                    let by = self.held_by(&server, record);
                    let poll_after = by.remaining.unwrap_or_default().min(Duration::from_millis(10));
                    Attempt::Held(Contention::new(by, poll_after))
                }
                known => {
                    let known = known.cloned();
                    server.count += u64::from(known.is_none());
                    let (token, info) = (server.count, claim.info().clone());
                    let new = Record { holder: claim.holder(), info, token, since: now, until, revoked: false };
                    let record = Record { until, ..known.unwrap_or(new) };
                    let token = FencingToken::new(server.realm.clone(), record.token);
                    server.records.insert(claim.name().clone(), record);
                    claim.store_state(ClaimState::default).granted.store(true, Ordering::SeqCst);
                    Attempt::Granted(match session.clone() {
                        Some(session) => Lease::on_session(session, Some(token), Retention::Complete),
                        None => Lease::new(claim.ttl(), Some(token), Retention::Complete),
                    })
                }
            }
        };
        if let Some(session) = session.filter(|_| late) {
            tokio::time::sleep(LATENCY).await;
            carry(&session, claim);
        }
        Ok(attempt)
    }

    async fn wait(&self, _: &Claim, _: &Contention) -> Result<()> {
        std::future::pending().await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        for (renewal, session) in batch.sessions() {
            self.round(renewal, session).await;
        }
        for (renewal, claim) in batch.leases() {
            let until = Until::Moment(self.clock.now().after(claim.ttl()));
            let mut server = self.server();
            let record = server.records.get_mut(claim.name()).filter(|record| record.holder == claim.holder());
            renewal.answer(match record {
                Some(record) => {
                    record.until = until;
                    RenewalOutcome::HeldFor(claim.ttl())
                }
                None => RenewalOutcome::NotHeld,
            });
        }
        Ok(())
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        let mut server = self.server();
        if !server.has(claim) {
            return Ok(ReleaseOutcome::NotHeld);
        }
        let record = server.records.remove(claim.name());
        if self.flaw == SessionFlaw::SessionEndsWithARelease
            && let Some(Record { until: Until::Session(key), .. }) = record
        {
            server.sessions.remove(&key);
        }
        Ok(ReleaseOutcome::Held)
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        let server = self.server();
        Ok(server.records.get(name).map(|record| self.held_by(&server, record)).into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let server = self.server();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let held = server.records.range::<LockName, _>((from, Bound::Unbounded)).take(limit);
        Ok(held.map(|(name, record)| (name.clone(), vec![self.held_by(&server, record)])).collect())
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let mut server = self.server();
        let Some(record) = server.records.remove(name) else { return Ok(None) };
        if Some(record.holder) != seen.holder {
            server.records.insert(name.clone(), record);
            return Ok(None);
        }
        let until = server.end_of(record.until).unwrap_or(self.clock.now());
        let evicted = self.held_by(&server, &record);
        server.count += 1;
        let token = server.count;
        if how == BreakMode::Revoke {
            let nobody =
                Record { holder: Holder::fresh(), token, until: Until::Moment(until), revoked: true, ..record };
            server.records.insert(name.clone(), nobody);
        }
        let free_in = if how == BreakMode::Revoke { until.since(self.clock.now()) } else { Duration::ZERO };
        Ok(Some(Eviction::new(evicted, Some(FencingToken::new(server.realm.clone(), token)), free_in)))
    }

    async fn new_realm(&self) -> Result<Realm> {
        let mut server = self.server();
        server.realm = Realm::fresh("sessions");
        Ok(server.realm.clone())
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding::info("realm", self.realm().to_string())])
    }
}

/// Deploys the store with one flaw.
pub(crate) struct SessionMutants(pub(crate) SessionFlaw);
struct Data(Sessions);

#[async_trait]
impl Factory for SessionMutants {
    async fn deploy(&self) -> std::result::Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Data(Sessions::new(self.0))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(600)
    }
}

#[async_trait]
impl Deployment for Data {
    async fn open(&self) -> std::result::Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(self.0.open()))
    }
}
