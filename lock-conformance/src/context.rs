//! [`Context`]: the deployment and the steps of a case.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, Claim, Clock, Contention, FencingToken, Guarantees, HeldBy, Lease, LockName, LockStore, Locks, Moment,
    ReleaseOutcome, RenewalBatch, RenewalOutcome, Session, Space,
};

use crate::ensure::{CaseResult, ensure};
use crate::factory::{Deployment, Failure};

/// A deployment that only this case uses, and the steps that many cases share.
pub(crate) struct Context {
    deployment: Arc<dyn Deployment>,
    pub(crate) guarantees: Guarantees,
    pub(crate) clock: Clock,
    /// The short TTL, for leases whose end the case waits for.
    pub(crate) ttl: Duration,
    /// The documented codes of findings; empty if they are not to be compared.
    pub(crate) finding_codes: &'static [&'static str],
}

/// A granted lease and its times.
pub(crate) struct GrantedLease {
    pub(crate) lease: Lease,
    pub(crate) sent: Moment,
    /// The end of its validity for its holder.
    pub(crate) valid_until: Moment,
}

impl Context {
    pub(crate) fn new(
        deployment: Arc<dyn Deployment>,
        guarantees: Guarantees,
        ttl: Duration,
        finding_codes: &'static [&'static str],
    ) -> Context {
        Context { deployment, guarantees, clock: Clock::system(), ttl, finding_codes }
    }

    pub(crate) fn deployment(&self) -> &dyn Deployment {
        &*self.deployment
    }

    /// The long TTL, for leases whose end the case does not wait for.
    pub(crate) fn long_ttl(&self) -> Duration {
        (self.ttl * 20).max(Duration::from_secs(40))
    }

    /// Far less than [`Context::long_ttl`] and far more than any store needs: a waiter that is
    /// served within it did not wait for the end of a lease.
    pub(crate) fn prompt_timeout(&self) -> Duration {
        self.long_ttl() / 2
    }

    /// Time limit, after its TTL, for the end of a lease that is not renewed.
    pub(crate) fn expiry_timeout(&self) -> Duration {
        self.ttl * 4 + Duration::from_secs(2)
    }

    /// Opens a handle, as another process would.
    pub(crate) async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        self.deployment.open().await
    }

    /// Opens locks with the long TTL, as another process would.
    pub(crate) async fn locks(&self) -> Result<Locks, Failure> {
        Ok(self.locks_on(self.open().await?))
    }

    pub(crate) fn locks_on(&self, store: Arc<dyn LockStore>) -> Locks {
        Locks::builder_of(store).ttl(self.long_ttl()).holder_info("conformance").build()
    }

    pub(crate) fn has_tokens(&self) -> bool {
        self.guarantees.tokens_survive.is_some()
    }

    /// A claim with the long TTL.
    pub(crate) fn claim(&self, name: &LockName) -> Claim {
        Claim::new(name.clone(), self.long_ttl())
    }

    /// A queueing claim with the long TTL.
    pub(crate) fn queueing_claim(&self, name: &LockName) -> Claim {
        Claim::queueing(name.clone(), self.long_ttl())
    }

    /// A claim with the short TTL.
    pub(crate) fn short_claim(&self, name: &LockName) -> Claim {
        Claim::new(name.clone(), self.ttl)
    }

    /// Requests the lock once.
    pub(crate) async fn request(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<RequestOutcome, Failure> {
        let sent = self.clock.now();
        match store.request(claim).await? {
            Attempt::Held(waiting) => Ok(RequestOutcome::Held(waiting)),
            Attempt::Granted(lease) => {
                let valid_until = match &lease.session {
                    None => self.clock.valid_until(sent, lease.ttl),
                    Some(session) => self.session_valid_until(session),
                };
                Ok(RequestOutcome::Granted(GrantedLease { lease, sent, valid_until }))
            }
        }
    }

    fn session_valid_until(&self, session: &Session) -> Moment {
        let now = self.clock.now();
        now.after(session.remaining())
    }

    /// Requests a lock that must be free.
    pub(crate) async fn expect_granted(
        &self,
        store: &Arc<dyn LockStore>,
        claim: &Claim,
    ) -> Result<GrantedLease, Failure> {
        match self.request(store, claim).await? {
            RequestOutcome::Granted(granted) => Ok(granted),
            RequestOutcome::Held(waiting) => {
                Err(format!("\"{}\" must be free, and is held by {}", claim.name(), waiting.by).into())
            }
        }
    }

    /// Requests a lock that must be held by another.
    pub(crate) async fn expect_held(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<Contention, Failure> {
        match self.request(store, claim).await? {
            RequestOutcome::Held(waiting) => Ok(waiting),
            RequestOutcome::Granted(_) => {
                Err(format!("\"{}\" is held by another, and was granted all the same", claim.name()).into())
            }
        }
    }

    /// Repeats a request until the lock is granted.
    pub(crate) async fn acquire_within(
        &self,
        store: &Arc<dyn LockStore>,
        claim: &Claim,
        limit: Duration,
    ) -> Result<GrantedLease, Failure> {
        let deadline = self.clock.now().after(limit);
        loop {
            if let RequestOutcome::Granted(granted) = self.request(store, claim).await? {
                return Ok(granted);
            }
            ensure!(self.clock.now() < deadline, "\"{}\" did not become free within {limit:?}", claim.name());
            tokio::time::sleep((self.ttl / 40).max(Duration::from_millis(2))).await;
        }
    }

    /// Releases a lock that this claim must hold.
    pub(crate) async fn release_held(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> CaseResult {
        let outcome = store.release(claim, Duration::ZERO).await?;
        ensure!(outcome == ReleaseOutcome::Held, "the release of \"{}\" by its holder found {outcome:?}", claim.name());
        Ok(())
    }

    /// Renews one claim once. Returns when the renewal was sent, and its answer; fails if it was
    /// not answered.
    pub(crate) async fn renew(
        &self,
        store: &Arc<dyn LockStore>,
        claim: &Claim,
    ) -> Result<(Moment, RenewalOutcome), Failure> {
        let batch = RenewalBatch::new(&self.clock, [claim.clone()]);
        let renewed = store.renew(&batch).await;
        let answer = batch.iter().next().and_then(|entry| entry.outcome());
        match (answer, renewed) {
            (Some(answer), _) => Ok((batch.sent(), answer)),
            (None, Err(error)) => Err(error.into()),
            (None, Ok(())) => Err("the renewal was neither answered nor failed".into()),
        }
    }

    /// Checks that the store shows this claim as the holder.
    pub(crate) async fn expect_holder(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<HeldBy, Failure> {
        let Some(by) = store.inspect(claim.name(), Space::Locks).await?.pop() else {
            return Err(format!("\"{}\" is held, and the store shows nobody", claim.name()).into());
        };
        ensure!(by.holder == Some(claim.holder()), "\"{}\" is shown with another holder: {by:?}", claim.name());
        Ok(by)
    }

    /// Checks that the lock has neither a holder nor a waiter: a newcomer that does not wait gets
    /// it at once.
    pub(crate) async fn expect_free(&self, store: &Arc<dyn LockStore>, name: &LockName) -> CaseResult {
        let by = store.inspect(name, Space::Locks).await?;
        ensure!(by.is_empty(), "\"{name}\" must be free, and is shown as held: {by:?}");
        let claim = self.claim(name);
        self.expect_granted(store, &claim).await?;
        self.release_held(store, &claim).await
    }

    /// Waits until a newcomer gets the lock, which must not take until the end of a long lease.
    pub(crate) async fn expect_free_soon(&self, store: &Arc<dyn LockStore>, name: &LockName) -> CaseResult {
        let claim = self.claim(name);
        self.acquire_within(store, &claim, self.prompt_timeout()).await?;
        self.release_held(store, &claim).await
    }
}

/// The answer of a store to a request.
pub(crate) enum RequestOutcome {
    Granted(GrantedLease),
    Held(Contention),
}

impl GrantedLease {
    /// The token of a store that promises tokens.
    pub(crate) fn token(&self) -> Result<FencingToken, Failure> {
        self.lease.token.clone().ok_or_else(|| "the store claims tokens, and granted a lease without one".into())
    }
}

/// A lock name that every store accepts.
pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).expect("BUG: the suite's own names are valid")
}

/// Waits until a condition holds; only the deadline of the case ends it.
pub(crate) async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
