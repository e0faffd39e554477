//! [`Faulty`]: a store whose calls are delayed, repeated or lost.

use std::fmt;
use std::future::{Future, pending};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Effect, Error, ErrorKind, Eviction, Finding, Guarantees, HeldBy,
    LockName, LockStore, Publisher, RaiseOutcome, Realm, RecordStore, ReleaseOutcome, RenewalBatch, Result, Space,
    StoredRecord, TokenRaiser,
};

use super::disturbance::{Call, Disturbance, Mix};
use super::plan::Plan;

/// A store whose calls arrive late, twice or never, and whose replies get lost: by a script, or by
/// a seeded schedule.
///
/// A call owns itself: a late call is applied even if its caller has gone. A renewal of a *session*
/// cannot be applied without its answer counting, so for sessions a lost reply is a call that never
/// arrived.
pub struct Faulty {
    store: Arc<dyn LockStore>,
    plan: Mutex<Plan>,
}

impl Faulty {
    /// Wraps this store, without faults so far.
    pub fn new(store: Arc<dyn LockStore>) -> Arc<Faulty> {
        Arc::new(Faulty { store, plan: Mutex::default() })
    }

    /// Wraps this store, with faults that the seed decides.
    pub fn random(store: Arc<dyn LockStore>, seed: u64, mix: Mix) -> Arc<Faulty> {
        Arc::new(Faulty { store, plan: Mutex::new(Plan::random(seed, mix)) })
    }

    /// Disturbs the next calls of this kind, in this order.
    pub fn script(&self, call: Call, disturbances: impl IntoIterator<Item = Disturbance>) {
        self.plan().script(call, disturbances);
    }

    /// Disturbs every call of this kind from now on.
    pub fn always(&self, call: Call, disturbance: Disturbance) {
        self.plan().always(call, disturbance);
    }

    /// Stops all faults from now on; calls in flight stay as they are.
    pub fn heal(&self) {
        self.plan().clear();
    }

    /// Number of calls of this kind so far.
    pub fn calls(&self, call: Call) -> usize {
        self.plan().count(call)
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn disturb<T, F>(&self, kind: Call, call: impl Fn() -> F + Send) -> Result<T>
    where
        T: Send,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let disturbance = self.plan().next(kind);
        match disturbance {
            Disturbance::Pass => call().await,
            Disturbance::Delay(time) => delayed(Some(time), call(), None).await,
            Disturbance::DelayBoth(time) => delayed(Some(time), call(), Some(time)).await,
            Disturbance::DelayReply(time) => delayed(None, call(), Some(time)).await,
            Disturbance::Fail => Err(not_applied()),
            Disturbance::FailApplied => {
                let _ = call().await;
                Err(lost_reply())
            }
            Disturbance::LoseReply => {
                let _ = call().await;
                pending().await
            }
            Disturbance::Hang => pending().await,
            Disturbance::ApplyLate(time) => {
                spawn_after(time, call());
                Err(lost_reply())
            }
            Disturbance::ApplyTwice(time) => {
                let reply = call().await;
                spawn_after(time, call());
                reply
            }
        }
    }

    /// A batch of the same leases whose answers are discarded; `None` if the batch contains a
    /// session.
    fn copy(batch: &RenewalBatch) -> Option<RenewalBatch> {
        let claims: Vec<Claim> = batch.leases().map(|(_, claim)| claim.clone()).collect();
        (claims.len() == batch.len()).then(|| RenewalBatch::new(batch.clock(), claims))
    }

    async fn renew_copy(&self, batch: &RenewalBatch) -> Option<(RenewalBatch, Result<()>)> {
        let copy = Faulty::copy(batch)?;
        let renewed = self.store.renew(&copy).await;
        Some((copy, renewed))
    }

    fn spawn_renewal(&self, time: Duration, batch: &RenewalBatch) {
        if let Some(copy) = Faulty::copy(batch) {
            let store = self.store.clone();
            spawn_after(time, async move { store.renew(&copy).await });
        }
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
        self.disturb(Call::Request, || {
            let (store, claim) = (self.store.clone(), claim.clone());
            async move { store.request(&claim).await }
        })
        .await
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        self.store.wait(claim, held).await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        let disturbance = self.plan().next(Call::Renew);
        match disturbance {
            Disturbance::Pass => self.store.renew(batch).await,
            Disturbance::Delay(time) | Disturbance::DelayBoth(time) => {
                tokio::time::sleep(time).await;
                self.store.renew(batch).await
            }
            Disturbance::DelayReply(time) => match self.renew_copy(batch).await {
                Some((copy, renewed)) => {
                    tokio::time::sleep(time).await;
                    for (entry, copied) in batch.iter().zip(&copy) {
                        copied.outcome().into_iter().for_each(|answer| entry.answer(answer));
                    }
                    renewed
                }
                None => {
                    tokio::time::sleep(time).await;
                    self.store.renew(batch).await
                }
            },
            Disturbance::Fail => Err(not_applied()),
            Disturbance::FailApplied => {
                self.renew_copy(batch).await;
                Err(lost_reply())
            }
            Disturbance::LoseReply => {
                self.renew_copy(batch).await;
                pending().await
            }
            Disturbance::Hang => pending().await,
            Disturbance::ApplyLate(time) => {
                self.spawn_renewal(time, batch);
                Err(lost_reply())
            }
            Disturbance::ApplyTwice(time) => {
                self.spawn_renewal(time, batch);
                self.store.renew(batch).await
            }
        }
    }

    async fn release(&self, claim: &Claim, linger: Duration) -> Result<ReleaseOutcome> {
        self.disturb(Call::Release, || {
            let (store, claim) = (self.store.clone(), claim.clone());
            async move { store.release(&claim, linger).await }
        })
        .await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        self.store.token_raiser().map(|_| self as &dyn TokenRaiser)
    }

    fn converter(&self) -> Option<&dyn Converter> {
        self.store.converter()
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        self.store.publisher()
    }

    async fn inspect(&self, name: &LockName, space: Space) -> Result<Vec<HeldBy>> {
        self.store.inspect(name, space).await
    }

    async fn list(&self, space: Space, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.store.list(space, after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.store.break_lock(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.store.new_realm().await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.disturb(Call::Diagnose, || {
            let store = self.store.clone();
            async move { store.diagnose().await }
        })
        .await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

#[async_trait]
impl TokenRaiser for Faulty {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        self.disturb(Call::Raise, || {
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
        self.disturb(Call::Record, || {
            let store = self.store.clone();
            async move { record_store_of(&*store).read_record().await }
        })
        .await
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        self.disturb(Call::Record, || {
            let (store, before, text) = (self.store.clone(), before.clone(), text.to_owned());
            async move { record_store_of(&*store).replace_record(&before, &text).await }
        })
        .await
    }
}

fn record_store_of(store: &dyn LockStore) -> &dyn RecordStore {
    store.token_raiser().and_then(TokenRaiser::record_store).expect("BUG: only a store that keeps is asked to")
}

/// Runs a call with a sleep before it, after it, or both.
async fn delayed<T>(before: Option<Duration>, call: impl Future<Output = T>, after: Option<Duration>) -> T {
    if let Some(time) = before {
        tokio::time::sleep(time).await;
    }
    let reply = call.await;
    if let Some(time) = after {
        tokio::time::sleep(time).await;
    }
    reply
}

fn spawn_after<T: Send>(time: Duration, call: impl Future<Output = Result<T>> + Send + 'static) {
    tokio::spawn(async move {
        tokio::time::sleep(time).await;
        // The reply is discarded.
        let _ = call.await;
    });
}

fn not_applied() -> Error {
    Error::refused(ErrorKind::Unavailable, "the suite kept this call from the store")
}

fn lost_reply() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the suite lost the reply to this call")
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("store", &self.store).finish_non_exhaustive()
    }
}
