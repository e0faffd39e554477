//! [`Mutant`]: the memory store behind a wrapper that can break any promise.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lock_conformance::async_trait;
use lock_core::{
    Attempt, Beat, BreakMode, Claim, Clock, Contention, Effect, Error, ErrorKind, Eviction, FencingToken, Guarantees,
    HeldBy, Holder, LockName, LockStore, MemoryStore, RaiseOutcome, Realm, RecordStore, ReleaseOutcome, RenewalBatch,
    RenewalOutcome, Result, Retention, StoredRecord, TokenRaiser, WaitStyle,
};

use super::flaw::Flaw;

/// The memory store with one flaw. Cloning gives the same store.
///
/// Each claim has a *shadow*, which the store inside sees in its place, so that a flaw can change its name, its TTL and
/// whether it queues. Without a flaw the wrapper must pass the suite.
#[derive(Clone, Debug)]
pub(crate) struct Mutant {
    inner: MemoryStore,
    flaw: Flaw,
    state: Arc<State>,
    handle: Realm,
}

#[derive(Debug, Default)]
struct State {
    /// The claims behind the shadows, by the shadows' holders.
    claims: Mutex<HashMap<Holder, Claim>>,
    /// Tokens of a mutant that makes its own.
    tokens: Mutex<HashMap<LockName, u64>>,
    /// The holders that a mutant has granted, with what it answered.
    granted: Mutex<HashMap<Holder, (Duration, Option<FencingToken>)>>,
    waiting: Mutex<HashMap<LockName, Vec<Holder>>>,
    asked: Mutex<HashSet<Holder>>,
    /// What a mutant keeps by itself, for each handle.
    kept: Mutex<HashMap<Realm, String>>,
    count: AtomicU64,
}

struct Shadow(Claim);

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

impl Mutant {
    pub(crate) fn new(flaw: Flaw) -> Mutant {
        Mutant { inner: MemoryStore::new(), flaw, state: Arc::default(), handle: Realm::fresh("mutant") }
    }

    /// Another process's handle.
    pub(crate) fn open(&self) -> Mutant {
        Mutant { handle: Realm::fresh("mutant"), ..self.clone() }
    }

    fn name(&self, name: &LockName) -> LockName {
        let text = name.as_str();
        let changed = match self.flaw {
            Flaw::NamesFoldCase => text.to_lowercase(),
            Flaw::NamesAreCut => text.char_indices().filter(|(at, _)| *at < 64).map(|(_, c)| c).collect(),
            Flaw::NamesEndAtASlash => text.split('/').find(|part| !part.is_empty()).unwrap_or("/").to_owned(),
            Flaw::NamesAreTrimmed => text.trim_end_matches(' ').to_owned(),
            Flaw::NamesAreDecoded => text.replace("%2F", "/"),
            Flaw::NamesLoseAccents => text.replace("e\u{301}", "é"),
            Flaw::NamesAreHashedToTwoBytes => {
                let hash = text.bytes().fold(5381_u64, |hash, byte| hash.wrapping_mul(33) ^ u64::from(byte));
                format!("{}", hash % 499)
            }
            _ => return name.clone(),
        };
        LockName::new(if changed.is_empty() { "_" } else { &changed }).unwrap()
    }

    fn shadow<'a>(&self, claim: &'a Claim) -> &'a Claim {
        let shadow = claim.store_state(|| {
            let name = self.name(claim.name());
            let ttl = match self.flaw {
                Flaw::KeepsHalfTheTtl => claim.ttl() / 2,
                Flaw::NeverExpires => claim.ttl() * 100,
                _ => claim.ttl(),
            };
            let queues = claim.queues() || self.flaw == Flaw::TriesQueue;
            let shadow = if queues { Claim::queueing(name, ttl) } else { Claim::new(name, ttl) };
            held(&self.state.claims).insert(shadow.holder(), claim.clone());
            Shadow(shadow)
        });
        &shadow.0
    }

    /// What the store inside says of a holder, as the outside knows it.
    fn shown(&self, mut by: HeldBy) -> HeldBy {
        let claim = by.holder.and_then(|holder| held(&self.state.claims).get(&holder).cloned());
        if let Some(claim) = claim {
            by.holder = Some(claim.holder());
            by.info = Some(claim.info().clone());
            if let Some((_, token)) = held(&self.state.granted).get(&claim.holder()) {
                by.token = token.clone();
            }
        }
        match self.flaw {
            Flaw::ShowsAnotherHolder => by.holder = Some(Holder::fresh()),
            Flaw::ShowsNoInfo => by.info = None,
            Flaw::ShowsTooMuchTime => by.remaining = by.remaining.map(|time| time * 3),
            Flaw::ShowsAnotherToken => {
                by.token = by.token.map(|token| FencingToken::new(token.realm().clone(), token.number() + 1));
            }
            _ => {}
        }
        by
    }

    fn hidden(&self, seen: &HeldBy) -> HeldBy {
        let claims = held(&self.state.claims);
        let shadow = claims.iter().find(|(_, claim)| Some(claim.holder()) == seen.holder).map(|(shadow, _)| *shadow);
        let mut hidden = seen.clone();
        hidden.holder = shadow.or(hidden.holder);
        hidden
    }

    /// Puts a waiter at the end of the line; says whether it stands there.
    fn is_last(&self, claim: &Claim) -> bool {
        let mut waiting = held(&self.state.waiting);
        let line = waiting.entry(claim.name().clone()).or_default();
        if claim.queues() && !line.contains(&claim.holder()) {
            line.push(claim.holder());
        }
        line.last().is_none_or(|last| *last == claim.holder())
    }

    async fn break_whoever_holds(&self, name: &LockName) -> Result<bool> {
        match self.inner.inspect(name).await? {
            Some(seen) => Ok(self.inner.break_lock(name, &seen, BreakMode::Now).await?.is_some()),
            None => Ok(false),
        }
    }

    /// The token that this mutant gives in place of the true one.
    fn token(&self, claim: &Claim, number: u64) -> Option<FencingToken> {
        let mut tokens = held(&self.state.tokens);
        let number = match self.flaw {
            Flaw::ClaimsTokensAndGivesNone => return None,
            Flaw::TokenRestartsOnRelease => {
                let count = tokens.entry(claim.name().clone()).or_default();
                *count += u64::from(!held(&self.state.granted).contains_key(&claim.holder()));
                *count
            }
            Flaw::TokenIsAlwaysTheSame => 1,
            Flaw::TokenFalls => u64::MAX - number,
            Flaw::TokenRepeatsAfterTheEnd => {
                let count = tokens.entry(claim.name().clone()).or_default();
                *count = (*count).max(1);
                *count
            }
            Flaw::RaiseLowersTheCounter => {
                let given = held(&self.state.granted).get(&claim.holder()).and_then(|(_, token)| token.clone());
                given.map_or(number - self.state.count.load(Ordering::SeqCst), |given| given.number())
            }
            Flaw::RetryGetsANewToken => number + self.state.count.fetch_add(1, Ordering::SeqCst),
            _ => number,
        };
        let realm = match self.flaw {
            Flaw::TokenOfAnotherRealm => Realm::new("elsewhere"),
            _ => self.realm(),
        };
        Some(FencingToken::new(realm, number))
    }

    async fn ask(&self, claim: &Claim) -> Result<Attempt> {
        let shadow = self.shadow(claim);
        if self.flaw == Flaw::RetryLosesTheToken && held(&self.state.granted).contains_key(&claim.holder()) {
            return Ok(Attempt::Granted(lock_core::Lease::new(claim.ttl(), None, Retention::Complete)));
        }
        let mut attempt = self.inner.request(shadow).await?;
        match &mut attempt {
            Attempt::Granted(lease) => {
                let number = lease.token.as_ref().map_or(0, FencingToken::number);
                lease.token = self.token(claim, number);
                if matches!(self.flaw, Flaw::KeepsHalfTheTtl | Flaw::NeverExpires) {
                    lease.ttl = claim.ttl();
                }
                held(&self.state.granted).insert(claim.holder(), (lease.ttl, lease.token.clone()));
            }
            Attempt::Held(waiting) => waiting.by = self.shown(std::mem::take(&mut waiting.by)),
        }
        Ok(attempt)
    }

    /// From now on the lease of this claim is shown with this token.
    fn set_token(&self, claim: &Claim, number: u64) {
        if let Some((_, token)) = held(&self.state.granted).get_mut(&claim.holder()) {
            *token = Some(FencingToken::new(self.realm(), number));
        }
    }

    async fn holder_of(&self, shadow: &Claim) -> Result<Option<Claim>> {
        let by = self.inner.inspect(shadow.name()).await?;
        Ok(by.and_then(|by| held(&self.state.claims).get(&by.holder?).cloned()))
    }

    async fn renew_one(&self, clock: &Clock, claim: &Claim) -> Option<RenewalOutcome> {
        let shadow = self.shadow(claim);
        match self.flaw {
            Flaw::RenewsWithoutExtending => {
                let by = self.inner.inspect(shadow.name()).await.ok()?;
                let held = by.is_some_and(|by| by.holder == Some(shadow.holder()));
                return Some(if held { RenewalOutcome::HeldFor(claim.ttl()) } else { RenewalOutcome::NotHeld });
            }
            Flaw::RenewsWhoeverHolds => {
                let by = self.inner.inspect(shadow.name()).await.ok()??;
                let holder = held(&self.state.claims).get(&by.holder?).cloned()?;
                let batch = RenewalBatch::new(clock, [self.shadow(&holder).clone()]);
                self.inner.renew(&batch).await;
                return batch.iter().next()?.outcome();
            }
            Flaw::RefusesRenewals => return Some(RenewalOutcome::NotHeld),
            _ => {}
        }
        let batch = RenewalBatch::new(clock, [shadow.clone()]);
        self.inner.renew(&batch).await;
        let answer = batch.iter().next()?.outcome()?;
        match (self.flaw, answer) {
            (Flaw::RenewsWhatIsNotHeld, RenewalOutcome::NotHeld) => Some(RenewalOutcome::HeldFor(claim.ttl())),
            (Flaw::RenewsForLonger, RenewalOutcome::HeldFor(ttl)) => Some(RenewalOutcome::HeldFor(ttl * 2)),
            (Flaw::NeverSaysNotHeld, RenewalOutcome::NotHeld) => None,
            (Flaw::RenewalAcquires, RenewalOutcome::NotHeld) => {
                let attempt = self.inner.request(shadow).await.ok()?;
                Some(match attempt {
                    Attempt::Granted(_) => RenewalOutcome::HeldFor(claim.ttl()),
                    Attempt::Held(_) => RenewalOutcome::NotHeld,
                })
            }
            (Flaw::KeepsHalfTheTtl | Flaw::NeverExpires, RenewalOutcome::HeldFor(_)) => {
                Some(RenewalOutcome::HeldFor(claim.ttl()))
            }
            (_, answer) => Some(answer),
        }
    }
}

#[async_trait]
impl LockStore for Mutant {
    fn guarantees(&self) -> Guarantees {
        match self.flaw {
            Flaw::ClaimsNoTokensAndGivesThem => {
                let mut promised = self.inner.guarantees();
                promised.tokens_survive = None;
                promised
            }
            Flaw::ClaimsToPollAndQueues => self.inner.guarantees().waiting(WaitStyle::Polled),
            _ => self.inner.guarantees(),
        }
    }

    fn realm(&self) -> Realm {
        if self.flaw == Flaw::RealmIsTheHandles { self.handle.clone() } else { self.inner.realm() }
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let asked_before = !held(&self.state.asked).insert(claim.holder());
        match self.flaw {
            Flaw::RetryBlocksItself if held(&self.state.granted).contains_key(&claim.holder()) => {
                let mut by = HeldBy::holder(claim.holder());
                by.remaining = Some(claim.ttl());
                return Ok(Attempt::Held(Contention::new(by, claim.ttl() / 10)));
            }
            Flaw::RetryKeepsTheOldEnd => {
                let before = held(&self.state.granted).get(&claim.holder()).cloned();
                if let Some((ttl, token)) = before {
                    return Ok(Attempt::Granted(lock_core::Lease::new(ttl, token, Retention::Complete)));
                }
            }
            Flaw::LastComeFirstServed => {
                let last = self.is_last(claim);
                let by = self.inspect(claim.name()).await?;
                if asked_before && !last && by.is_none() {
                    return Ok(Attempt::Held(Contention::new(HeldBy::default(), Duration::from_millis(5))));
                }
                let attempt = self.ask(claim).await?;
                if let Attempt::Held(waiting) = attempt {
                    self.inner.release(self.shadow(claim)).await?;
                    return Ok(Attempt::Held(Contention::new(waiting.by, Duration::from_millis(5))));
                }
                if let Some(line) = held(&self.state.waiting).get_mut(claim.name()) {
                    line.retain(|holder| *holder != claim.holder());
                }
                return Ok(attempt);
            }
            Flaw::WaitersMoveToTheEnd if asked_before => {
                let by = self.inner.inspect(self.shadow(claim).name()).await?;
                if by.is_some_and(|by| by.holder != Some(self.shadow(claim).holder())) {
                    self.inner.release(self.shadow(claim)).await?;
                }
            }
            Flaw::TryExtendsTheLeaseInTheWay => {
                let by = self.inner.inspect(self.shadow(claim).name()).await?;
                let holder = by.and_then(|by| held(&self.state.claims).get(&by.holder?).cloned());
                if let Some(holder) = holder {
                    let batch = RenewalBatch::new(&Clock::system(), [self.shadow(&holder).clone()]);
                    self.inner.renew(&batch).await;
                }
            }
            Flaw::GrantsWhatIsHeld => {
                self.break_whoever_holds(&self.name(claim.name())).await?;
            }
            Flaw::GrantsEveryTenth if self.state.count.fetch_add(1, Ordering::SeqCst) % 10 == 9 => {
                return Ok(Attempt::Granted(lock_core::Lease::new(
                    claim.ttl(),
                    self.token(claim, 1 << 40),
                    Retention::Complete,
                )));
            }
            Flaw::SaysNoEffectThoughApplied if self.state.count.fetch_add(1, Ordering::SeqCst) % 4 == 3 => {
                self.ask(claim).await?;
                return Err(Error::new(ErrorKind::Unavailable, Effect::None, "it says that nothing changed"));
            }
            _ => {}
        }
        let attempt = self.ask(claim).await?;
        Ok(match (self.flaw, attempt) {
            (Flaw::WaitsForTheEndOfTheLease, Attempt::Held(held)) => {
                self.inner.release(self.shadow(claim)).await?;
                Attempt::Held(Contention::new(held.by.clone(), held.by.remaining.unwrap_or(claim.ttl())))
            }
            (_, attempt) => attempt,
        })
    }

    async fn wait(&self, claim: &Claim, waiting: &Contention) -> Result<()> {
        match self.flaw {
            Flaw::WaitsForTheEndOfTheLease | Flaw::LastComeFirstServed => std::future::pending().await,
            _ => self.inner.wait(self.shadow(claim), waiting).await,
        }
    }

    async fn renew(&self, batch: &RenewalBatch) {
        for (at, entry) in batch.iter().enumerate() {
            let Beat::Lease(claim) = entry.of() else { continue };
            if self.flaw == Flaw::AnswersAHundredRenewals && at >= 100 {
                return;
            }
            if let Some(answer) = self.renew_one(batch.clock(), claim).await {
                if self.flaw == Flaw::OneUnknownEntrySpoilsTheRest && answer == RenewalOutcome::NotHeld {
                    batch.iter().skip(at).for_each(|rest| rest.answer(answer));
                    return;
                }
                entry.answer(answer);
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let shadow = self.shadow(claim);
        let by = self.inner.inspect(shadow.name()).await?;
        let revoked = by.as_ref().is_some_and(|by| by.revoked);
        let holds = by.is_some_and(|by| by.holder == Some(shadow.holder()));
        match self.flaw {
            Flaw::ReleaseIgnoresTheHolder => {
                let found = self.break_whoever_holds(shadow.name()).await?;
                return Ok(if found { ReleaseOutcome::Held } else { self.inner.release(shadow).await? });
            }
            Flaw::ReleaseIsRepeatedByName => {
                let (again, name) = (self.clone(), shadow.name().clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    again.break_whoever_holds(&name).await
                });
            }
            Flaw::EvictedHolderUnblocks if revoked => {
                self.break_whoever_holds(shadow.name()).await?;
            }
            Flaw::ReleaseLeavesThePlace if !holds => return Ok(ReleaseOutcome::NotHeld),
            Flaw::ReleaseOfUnclearClaimsIsIgnored if claim.is_in_doubt() => return Ok(ReleaseOutcome::NotHeld),
            Flaw::ReleaseDoesNothing if holds => return Ok(ReleaseOutcome::Held),
            Flaw::ReleaseFailsAtWhatIsNotHeld if !holds => {
                return Err(Error::refused(ErrorKind::Protocol, "it is not held"));
            }
            Flaw::ReleaseSaysHeldAlways => {
                self.inner.release(shadow).await?;
                return Ok(ReleaseOutcome::Held);
            }
            Flaw::ReleaseSaysNotHeldAlways => {
                self.inner.release(shadow).await?;
                return Ok(ReleaseOutcome::NotHeld);
            }
            _ => {}
        }
        let found = self.inner.release(shadow).await;
        if self.flaw == Flaw::TokenRestartsOnRelease {
            held(&self.state.tokens).remove(claim.name());
        }
        found
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        if self.flaw == Flaw::ShowsNobody {
            return Ok(None);
        }
        let by = self.inner.inspect(&self.name(name)).await?;
        Ok(by.filter(|by| !(self.flaw == Flaw::HidesTheRevoked && by.revoked)).map(|by| self.shown(by)))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let after = after.filter(|_| self.flaw != Flaw::ListIgnoresAfter);
        let limit = if self.flaw == Flaw::ListIgnoresTheLimit { usize::MAX } else { limit };
        let mut listed = self.inner.list(after, limit).await?;
        match self.flaw {
            Flaw::ListIsUnordered => listed.reverse(),
            Flaw::ListLosesOne => drop(listed.pop()),
            _ => {}
        }
        let outside = |by: &HeldBy| by.holder.and_then(|holder| held(&self.state.claims).get(&holder).cloned());
        let named = |(name, by): (LockName, HeldBy)| (outside(&by).map_or(name, |c| c.name().clone()), self.shown(by));
        Ok(listed.into_iter().map(named).collect())
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let name = self.name(name);
        let mut hidden = self.hidden(seen);
        let mut how = how;
        match self.flaw {
            Flaw::BreakIgnoresWhatWasSeen => {
                if let Some(now) = self.inner.inspect(&name).await? {
                    hidden = now;
                }
            }
            Flaw::BreakDoesNothing => {
                return Ok(Some(Eviction::new(seen.clone(), seen.token.clone(), Duration::ZERO)));
            }
            Flaw::RevokeFreesAtOnce => how = BreakMode::Now,
            Flaw::NowBlocks => how = BreakMode::Revoke,
            _ => {}
        }
        let broken = self.inner.break_lock(&name, &hidden, how).await?;
        Ok(broken.map(|broken| {
            let token = match self.flaw {
                Flaw::BreakUsesUpNoToken => seen.token.clone(),
                _ => broken.token,
            };
            Eviction::new(self.shown(broken.evicted), token, broken.free_in)
        }))
    }

    async fn new_realm(&self) -> Result<Realm> {
        if self.flaw == Flaw::NewRealmIsTheOld { Ok(self.realm()) } else { self.inner.new_realm().await }
    }
}

#[async_trait]
impl TokenRaiser for Mutant {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        let shadow = self.shadow(claim);
        let holder = self.holder_of(shadow).await?;
        let holds = holder.as_ref().is_some_and(|holder| holder.holder() == claim.holder());
        match self.flaw {
            Flaw::RaiseLowersTheToken if holds => {
                self.set_token(claim, number);
                return Ok(RaiseOutcome::Raised);
            }
            Flaw::RaiseLowersTheCounter if holds => {
                let granted = held(&self.state.granted);
                let numbers = granted.values().filter_map(|(_, token)| Some(token.as_ref()?.number()));
                let highest = numbers.max().unwrap_or(number).max(number);
                drop(granted);
                self.state.count.store(highest - number, Ordering::SeqCst);
                self.set_token(claim, number);
                return Ok(RaiseOutcome::Raised);
            }
            Flaw::RaiseLeavesTheCounter if holds && number < u64::MAX => {
                self.set_token(claim, number);
                return Ok(RaiseOutcome::Raised);
            }
            Flaw::RaisesWhoeverHolds => {
                if let Some(holder) = holder {
                    let raised = self.inner.raise(self.shadow(&holder), number).await?;
                    self.set_token(&holder, number);
                    return Ok(raised);
                }
            }
            Flaw::RaiseAcquires if holder.is_none() => {
                self.ask(claim).await?;
            }
            Flaw::RaisesBeyondTheEnd if holds && number == u64::MAX => return Ok(RaiseOutcome::Raised),
            _ => {}
        }
        let before = held(&self.state.granted).get(&claim.holder()).and_then(|(_, token)| token.clone());
        let raised = self.inner.raise(shadow, number).await?;
        if raised == RaiseOutcome::Raised {
            self.set_token(claim, number);
        }
        match self.flaw {
            Flaw::RaiseSaysRaisedAlways => return Ok(RaiseOutcome::Raised),
            Flaw::RaiseRefusesTheSame if before.is_some_and(|token| token.number() == number) => {
                return Ok(RaiseOutcome::Refused);
            }
            Flaw::RaiseRenews => {
                let batch = RenewalBatch::new(&Clock::system(), [shadow.clone()]);
                self.inner.renew(&batch).await;
            }
            _ => {}
        }
        Ok(raised)
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for Mutant {
    async fn read_record(&self) -> Result<StoredRecord> {
        let mut kept = self.inner.read_record().await?;
        match self.flaw {
            Flaw::KeepForgets => kept.text = None,
            Flaw::KeepIsTheHandles => kept.text = held(&self.state.kept).get(&self.handle).cloned(),
            _ => {}
        }
        Ok(kept)
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        match self.flaw {
            Flaw::KeepIgnoresWhatWas => {
                let before = self.inner.read_record().await?;
                self.inner.replace_record(&before, text).await
            }
            Flaw::KeepIgnoresTheRealm => {
                let realm = self.inner.realm();
                self.inner.replace_record(&StoredRecord { realm, ..before.clone() }, text).await
            }
            Flaw::KeepRefusesTheSame => {
                let now = self.inner.read_record().await?;
                Ok(now.text.as_deref() != Some(text) && self.inner.replace_record(before, text).await?)
            }
            Flaw::KeepIsTheHandles => {
                held(&self.state.kept).insert(self.handle.clone(), text.to_owned());
                Ok(true)
            }
            _ => self.inner.replace_record(before, text).await,
        }
    }
}
