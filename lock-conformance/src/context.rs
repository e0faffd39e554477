//! [`Context`]: what a case works with.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, Claim, Clock, Contention, FencingToken, Guarantees, HeldBy, Lease, LockName, LockStore, Locks, Moment,
    ReleaseOutcome, RenewalBatch, RenewalOutcome, Session,
};

use crate::case::{Proof, ensure};
use crate::{Deployment, Failure};

/// What a case works with: a deployment of its own.
pub(crate) struct Context {
    deployment: Arc<dyn Deployment>,
    pub(crate) guarantees: Guarantees,
    pub(crate) clock: Clock,
    /// The TTL of leases whose end the case waits for.
    pub(crate) ttl: Duration,
}

/// A lease with what is needed to judge it.
pub(crate) struct Granted {
    pub(crate) lease: Lease,
    pub(crate) sent: Moment,
    /// Until when its holder may believe in it.
    pub(crate) valid_until: Moment,
}

impl Context {
    pub(crate) fn new(deployment: Arc<dyn Deployment>, guarantees: Guarantees, ttl: Duration) -> Context {
        Context { deployment, guarantees, clock: Clock::system(), ttl }
    }

    pub(crate) fn deployment(&self) -> &dyn Deployment {
        &*self.deployment
    }

    /// The TTL of leases whose end the case does not wait for.
    pub(crate) fn long(&self) -> Duration {
        (self.ttl * 20).max(Duration::from_secs(40))
    }

    /// What is far less than [`Context::long`] and far more than any store needs: who is served within it did not wait
    /// for the end of a lease.
    pub(crate) fn soon(&self) -> Duration {
        self.long() / 2
    }

    /// Within this after its TTL, a lease that nobody renews must have ended.
    pub(crate) fn patience(&self) -> Duration {
        self.ttl * 4 + Duration::from_secs(2)
    }

    /// Another process's handle.
    pub(crate) async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        self.deployment.open().await
    }

    /// Another process's locks, with the long TTL.
    pub(crate) async fn locks(&self) -> Result<Locks, Failure> {
        Ok(self.locks_on(self.open().await?))
    }

    pub(crate) fn locks_on(&self, store: Arc<dyn LockStore>) -> Locks {
        Locks::builder_of(store).ttl(self.long()).holder_info("conformance").build()
    }

    pub(crate) fn has_tokens(&self) -> bool {
        self.guarantees.tokens_survive.is_some()
    }

    /// A claim with the long TTL.
    pub(crate) fn claim(&self, name: &LockName) -> Claim {
        Claim::new(name.clone(), self.long())
    }

    /// A claim with the long TTL that queues.
    pub(crate) fn queueing(&self, name: &LockName) -> Claim {
        Claim::queueing(name.clone(), self.long())
    }

    /// A claim with the short TTL.
    pub(crate) fn brief(&self, name: &LockName) -> Claim {
        Claim::new(name.clone(), self.ttl)
    }

    /// Asks once.
    pub(crate) async fn ask(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<Answer, Failure> {
        let sent = self.clock.now();
        match store.request(claim).await? {
            Attempt::Held(waiting) => Ok(Answer::Held(waiting)),
            Attempt::Granted(lease) => {
                let valid_until = match &lease.session {
                    None => self.clock.valid_until(sent, lease.ttl),
                    Some(session) => self.believed(session),
                };
                Ok(Answer::Granted(Granted { lease, sent, valid_until }))
            }
        }
    }

    fn believed(&self, session: &Session) -> Moment {
        let now = self.clock.now();
        now.after(session.remaining())
    }

    /// Asks for a lock that must be free.
    pub(crate) async fn grant(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<Granted, Failure> {
        match self.ask(store, claim).await? {
            Answer::Granted(granted) => Ok(granted),
            Answer::Held(waiting) => {
                Err(format!("\"{}\" must be free, and is held by {}", claim.name(), waiting.by).into())
            }
        }
    }

    /// Asks for a lock that must be held.
    pub(crate) async fn refused(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<Contention, Failure> {
        match self.ask(store, claim).await? {
            Answer::Held(waiting) => Ok(waiting),
            Answer::Granted(_) => {
                Err(format!("\"{}\" is held by another, and was granted all the same", claim.name()).into())
            }
        }
    }

    /// Asks again and again, until the lock is granted.
    pub(crate) async fn grant_within(
        &self,
        store: &Arc<dyn LockStore>,
        claim: &Claim,
        limit: Duration,
    ) -> Result<Granted, Failure> {
        let until = self.clock.now().after(limit);
        loop {
            if let Answer::Granted(granted) = self.ask(store, claim).await? {
                return Ok(granted);
            }
            ensure!(self.clock.now() < until, "\"{}\" did not become free within {limit:?}", claim.name());
            tokio::time::sleep((self.ttl / 40).max(Duration::from_millis(2))).await;
        }
    }

    /// Releases what must be held.
    pub(crate) async fn give_back(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Proof {
        let found = store.release(claim).await?;
        ensure!(found == ReleaseOutcome::Held, "the release of \"{}\" by its holder found {found:?}", claim.name());
        Ok(())
    }

    /// One renewal of one claim; `None` if it was not answered.
    pub(crate) async fn renew(
        &self,
        store: &Arc<dyn LockStore>,
        claim: &Claim,
    ) -> Result<(Moment, RenewalOutcome), Failure> {
        let batch = RenewalBatch::new(&self.clock, [claim.clone()]);
        store.renew(&batch).await;
        let answer = batch.iter().next().and_then(|entry| entry.outcome());
        match (answer, batch.failure()) {
            (Some(answer), _) => Ok((batch.sent(), answer)),
            (None, Some(error)) => Err(error.into()),
            (None, None) => Err("the renewal was neither answered nor failed".into()),
        }
    }

    /// The holder that the store shows must be this claim's.
    pub(crate) async fn shows_holder(&self, store: &Arc<dyn LockStore>, claim: &Claim) -> Result<HeldBy, Failure> {
        let Some(by) = store.inspect(claim.name()).await? else {
            return Err(format!("\"{}\" is held, and the store shows nobody", claim.name()).into());
        };
        ensure!(by.holder == Some(claim.holder()), "\"{}\" is shown with another holder: {by:?}", claim.name());
        Ok(by)
    }

    /// Checks that nobody holds the lock and nobody queues for it: a newcomer that does not wait gets it at once.
    pub(crate) async fn is_free(&self, store: &Arc<dyn LockStore>, name: &LockName) -> Proof {
        let by = store.inspect(name).await?;
        ensure!(by.is_none(), "\"{name}\" must be free, and is shown as held: {by:?}");
        let claim = self.claim(name);
        self.grant(store, &claim).await?;
        self.give_back(store, &claim).await
    }

    /// Waits until a newcomer gets the lock, without the end of a long lease.
    pub(crate) async fn becomes_free(&self, store: &Arc<dyn LockStore>, name: &LockName) -> Proof {
        let claim = self.claim(name);
        self.grant_within(store, &claim, self.soon()).await?;
        self.give_back(store, &claim).await
    }
}

/// A store's answer.
pub(crate) enum Answer {
    Granted(Granted),
    Held(Contention),
}

impl Granted {
    /// The token, where the store must give one.
    pub(crate) fn token(&self) -> Result<FencingToken, Failure> {
        self.lease.token.clone().ok_or_else(|| "the store claims tokens, and granted a lease without one".into())
    }
}

/// A name that is fine for every store.
pub(crate) fn name(text: &str) -> LockName {
    LockName::new(text).expect("BUG: the suite's own names are valid")
}

/// Waits until a condition holds, for as long as the case may take.
pub(crate) async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    while !holds().await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
