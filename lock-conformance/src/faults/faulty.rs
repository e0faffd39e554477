//! [`Faulty`]: a store that its calls reach late, twice or never.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Attempt, Beat, BreakMode, Claim, Contention, Effect, Error, ErrorKind, Eviction, Guarantees, HeldBy, LockName,
    LockStore, RaiseOutcome, Realm, RecordStore, ReleaseOutcome, RenewalBatch, Result, StoredRecord, TokenRaiser,
};

use crate::Random;
use crate::faults::{Call, Disturbance, Mix};

/// A store that its calls reach late, twice or never, and whose replies get lost: by a script, or by a seeded schedule.
///
/// Every call is owned by itself: what is applied late is applied although its caller has gone. A renewal of a *session*
/// cannot be applied without its answer counting, so for sessions a lost reply is a call that never arrived.
pub struct Faulty {
    store: Arc<dyn LockStore>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Call, VecDeque<Disturbance>>,
    always: HashMap<Call, Disturbance>,
    random: Option<(Random, Mix)>,
    calls: HashMap<Call, usize>,
}

impl Faulty {
    /// This store, with nothing going wrong yet.
    pub fn new(store: Arc<dyn LockStore>) -> Arc<Faulty> {
        Arc::new(Faulty { store, plan: Mutex::default() })
    }

    /// This store, with what the seed decides going wrong.
    pub fn random(store: Arc<dyn LockStore>, seed: u64, mix: Mix) -> Arc<Faulty> {
        let plan = Plan { random: Some((Random::new(seed), mix)), ..Plan::default() };
        Arc::new(Faulty { store, plan: Mutex::new(plan) })
    }

    /// What happens to the next calls of this kind, in this order.
    pub fn script(&self, op: Call, steps: impl IntoIterator<Item = Disturbance>) {
        self.plan().next.entry(op).or_default().extend(steps);
    }

    /// What happens to every call of this kind from now on.
    pub fn always(&self, op: Call, step: Disturbance) {
        self.plan().always.insert(op, step);
    }

    /// From now on nothing goes wrong; what is under way stays so.
    pub fn heal(&self) {
        let mut plan = self.plan();
        (plan.next, plan.always, plan.random) = Default::default();
    }

    /// How many calls of this kind were made.
    pub fn calls(&self, op: Call) -> usize {
        self.plan().calls.get(&op).copied().unwrap_or_default()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn step(&self, op: Call) -> Disturbance {
        let mut plan = self.plan();
        *plan.calls.entry(op).or_default() += 1;
        if let Some(step) = plan.next.get_mut(&op).and_then(VecDeque::pop_front) {
            return step;
        }
        if let Some(step) = plan.always.get(&op) {
            return *step;
        }
        plan.random.as_mut().map_or(Disturbance::Pass, |(random, mix)| mix.draw(random))
    }

    async fn play<T, F>(&self, op: Call, call: impl Fn() -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        match self.step(op) {
            Disturbance::Pass => call().await,
            Disturbance::Delay(time) => {
                tokio::time::sleep(time).await;
                call().await
            }
            Disturbance::DelayBoth(time) => {
                tokio::time::sleep(time).await;
                let reply = call().await;
                tokio::time::sleep(time).await;
                reply
            }
            Disturbance::DelayReply(time) => {
                let reply = call().await;
                tokio::time::sleep(time).await;
                reply
            }
            Disturbance::Fail => Err(not_applied()),
            Disturbance::FailApplied => {
                let _ = call().await;
                Err(unknown())
            }
            Disturbance::LoseReply => {
                let _ = call().await;
                pending().await
            }
            Disturbance::Hang => pending().await,
            Disturbance::ApplyLate(time) => {
                later(time, call());
                Err(unknown())
            }
            Disturbance::ApplyTwice(time) => {
                let reply = call().await;
                later(time, call());
                reply
            }
        }
    }

    /// The same leases in a batch of its own, whose answers nobody hears; `None` if a session is among them.
    fn copy(batch: &RenewalBatch) -> Option<RenewalBatch> {
        let claim = |beat| match beat {
            Beat::Lease(claim) => Some(claim.clone()),
            Beat::Session(_) => None,
        };
        let claims: Option<Vec<Claim>> = batch.iter().map(|entry| claim(entry.of())).collect();
        claims.map(|claims| RenewalBatch::new(batch.clock(), claims))
    }

    async fn renew_copy(&self, batch: &RenewalBatch) -> Option<RenewalBatch> {
        let copy = Faulty::copy(batch)?;
        self.store.renew(&copy).await;
        Some(copy)
    }
}

#[async_trait]
impl LockStore for Faulty {
    fn guarantees(&self) -> Guarantees {
        self.store.guarantees()
    }

    fn realm(&self) -> Realm {
        self.store.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.play(Call::Request, || {
            let (store, claim) = (self.store.clone(), claim.clone());
            async move { store.request(&claim).await }
        })
        .await
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        self.store.wait(claim, held).await
    }

    async fn renew(&self, batch: &RenewalBatch) {
        match self.step(Call::Renew) {
            Disturbance::Pass => self.store.renew(batch).await,
            Disturbance::Delay(time) | Disturbance::DelayBoth(time) => {
                tokio::time::sleep(time).await;
                self.store.renew(batch).await;
            }
            Disturbance::DelayReply(time) => match self.renew_copy(batch).await {
                Some(copy) => {
                    tokio::time::sleep(time).await;
                    for (entry, copied) in batch.iter().zip(&copy) {
                        copied.outcome().into_iter().for_each(|answer| entry.answer(answer));
                    }
                }
                None => {
                    tokio::time::sleep(time).await;
                    self.store.renew(batch).await;
                }
            },
            Disturbance::Fail => batch.fail(not_applied()),
            Disturbance::FailApplied => {
                self.renew_copy(batch).await;
                batch.fail(unknown());
            }
            Disturbance::LoseReply => {
                self.renew_copy(batch).await;
                pending().await
            }
            Disturbance::Hang => pending().await,
            Disturbance::ApplyLate(time) => {
                self.renew_later(time, batch);
                batch.fail(unknown());
            }
            Disturbance::ApplyTwice(time) => {
                self.renew_later(time, batch);
                self.store.renew(batch).await;
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        self.play(Call::Release, || {
            let (store, claim) = (self.store.clone(), claim.clone());
            async move { store.release(&claim).await }
        })
        .await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        self.store.token_raiser().map(|_| self as &dyn TokenRaiser)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        self.store.inspect(name).await
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.store.list(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.store.break_lock(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.store.new_realm().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[async_trait]
impl TokenRaiser for Faulty {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        self.play(Call::Raise, || {
            let (store, claim) = (self.store.clone(), claim.clone());
            async move {
                let raise = store.token_raiser().expect("BUG: only a store that raises is asked to");
                raise.raise(&claim, number).await
            }
        })
        .await
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        self.store.token_raiser()?.record_store().map(|_| self as &dyn RecordStore)
    }
}

#[async_trait]
impl RecordStore for Faulty {
    async fn read_record(&self) -> Result<StoredRecord> {
        self.play(Call::Record, || {
            let store = self.store.clone();
            async move { keeps(&*store).read_record().await }
        })
        .await
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        self.play(Call::Record, || {
            let (store, before, text) = (self.store.clone(), before.clone(), text.to_owned());
            async move { keeps(&*store).replace_record(&before, &text).await }
        })
        .await
    }
}

fn keeps(store: &dyn LockStore) -> &dyn RecordStore {
    store.token_raiser().and_then(TokenRaiser::record_store).expect("BUG: only a store that keeps is asked to")
}

impl Faulty {
    fn renew_later(&self, time: Duration, batch: &RenewalBatch) {
        if let Some(copy) = Faulty::copy(batch) {
            let store = self.store.clone();
            later(time, async move {
                store.renew(&copy).await;
                Ok(())
            });
        }
    }
}

fn later<T: Send>(time: Duration, call: impl Future<Output = Result<T>> + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        // Nobody hears the reply.
        let _ = call.await;
    });
}

fn not_applied() -> Error {
    Error::refused(ErrorKind::Unavailable, "the suite kept this call from the store")
}

fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the suite lost the reply to this call")
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("store", &self.store).finish_non_exhaustive()
    }
}
