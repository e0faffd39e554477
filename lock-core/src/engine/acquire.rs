//! [`acquire`]: the one loop that asks, waits and asks again, for every store.

use std::sync::Arc;
use std::time::Duration;

use super::pending::{Grant, Pending, RequestOutcome, too_late};
use super::shared::{Engine, closed};
use super::wait_queue::{Ticket, held_by};
use crate::contract::{Claim, Contention, Session};
use crate::observe;
use crate::words::{Error, HeldBy, LockName, Moment, Result, WaitStyle};

/// What the caller wants.
pub(crate) struct AcquireRequest {
    pub(crate) name: LockName,
    pub(crate) ttl: Duration,
    pub(crate) fixed: bool,
    pub(crate) patience: Patience,
    pub(crate) on_wait: Option<OnWait>,
}

/// How long an acquire waits for a lock that is held.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    None,
    For(Duration),
    Unlimited,
}

impl AcquireRequest {
    /// A claim of a fresh holder.
    fn claim(&self, engine: &Engine, queues: bool) -> Claim {
        Claim::with(self.name.clone(), self.ttl, self.fixed, queues, engine.info.clone())
    }
}

/// Callback of [`Lock::on_wait`](crate::Lock::on_wait).
pub(crate) type OnWait = Arc<dyn Fn(&HeldBy) + Send + Sync>;

/// Acquires; `None` if the lock is held and the caller does not wait.
pub(crate) async fn acquire(engine: Arc<Engine>, wanted: AcquireRequest) -> Result<Option<Grant>> {
    // A loop over a store that answers at once must let others run.
    tokio::task::coop::consume_budget().await;
    let _admitted = engine.admit()?;
    let started = engine.clock.now();
    let waits = wanted.patience != Patience::None;
    let queued = waits && engine.store.guarantees().waiting == WaitStyle::Queued;
    let place = if waits && !queued { engine.queues.join_existing(&wanted.name) } else { None };
    let mut pending = Pending::new(&engine, wanted.claim(&engine, queued));
    let mut first = None;
    if place.is_none() {
        match pending.request(started).await {
            Ok(RequestOutcome::Granted(grant, now)) => {
                observe::acquired(grant.claim.name(), grant.claim.holder(), now.since(started));
                return Ok(Some(grant));
            }
            answer if waits => first = Some(answer),
            Ok(RequestOutcome::Held(_)) => {
                observe::contended(pending.claim.name(), pending.claim.holder());
                return Ok(None);
            }
            Ok(RequestOutcome::TooLate) => return Err(too_late(&pending.claim)),
            Ok(RequestOutcome::Closed) => return Err(closed()),
            Err(error) => return Err(error),
        }
    }
    let until = match wanted.patience {
        Patience::For(limit) => Some(started.after(limit)),
        Patience::None | Patience::Unlimited => None,
    };
    let waiter = WaitingAcquire { engine, wanted, started, until, queued };
    // Boxed, so that the future of a lock that is free stays small.
    Box::pin(waiter.acquire(pending, place, first)).await.map(Some)
}

/// An acquire that waits.
struct WaitingAcquire {
    engine: Arc<Engine>,
    wanted: AcquireRequest,
    started: Moment,
    until: Option<Moment>,
    queued: bool,
}

/// For how long a store that fails to answer is asked again, and how soon.
struct Backoff {
    since: Moment,
    delay: Duration,
}

impl WaitingAcquire {
    /// Goes on from the `first` answer, or from its `place` in the line of those who came before.
    async fn acquire(
        &self,
        mut pending: Pending,
        mut place: Option<Ticket>,
        mut first: Option<Result<RequestOutcome>>,
    ) -> Result<Grant> {
        let mut trouble = None;
        loop {
            let answer = match first.take() {
                Some(answer) => answer,
                None => {
                    if let Some(place) = &place {
                        self.wait_for_turn(place, &pending.claim).await?;
                    }
                    if pending.claim.is_retired() {
                        pending = self.fresh_request();
                    }
                    pending.request(self.engine.clock.now()).await
                }
            };
            match answer {
                Ok(RequestOutcome::Granted(grant, now)) => {
                    if let Some(place) = place {
                        place.grant_to(&grant.claim, &grant.session);
                    }
                    observe::acquired(grant.claim.name(), grant.claim.holder(), now.since(self.started));
                    return Ok(grant);
                }
                Ok(RequestOutcome::TooLate) => {
                    self.back_off(&mut trouble, &pending.claim, too_late(&pending.claim)).await?;
                    pending = self.fresh_request();
                }
                Ok(RequestOutcome::Closed) => return Err(closed()),
                Ok(RequestOutcome::Held(held)) => {
                    trouble = None;
                    pending.register_waiter();
                    if !self.wait(&pending.claim, &held, &mut place).await? {
                        // What carried its place in the queue has ended: a new claim takes a new place.
                        pending = self.fresh_request();
                    }
                }
                Err(error) => self.back_off(&mut trouble, &pending.claim, error).await?,
            }
        }
    }

    fn fresh_request(&self) -> Pending {
        Pending::new(&self.engine, self.wanted.claim(&self.engine, self.queued))
    }

    fn is_wait_over(&self) -> bool {
        self.until.is_some_and(|until| self.engine.clock.now() >= until)
    }

    async fn wait_over(&self) {
        match self.until {
            Some(until) => self.engine.clock.sleep_until(until).await,
            None => std::future::pending().await,
        }
    }

    /// Waits until `place` is the head of this process's line, and whom it served before no longer holds the lock.
    async fn wait_for_turn(&self, place: &Ticket, claim: &Claim) -> Result<()> {
        let mut told = false;
        loop {
            let holder = place.local_holder();
            if holder.is_none() && place.is_head() {
                return Ok(());
            }
            let by = holder.as_ref().map(|(holder, _)| held_by(holder)).unwrap_or_default();
            let by = place.ahead(by);
            if !std::mem::replace(&mut told, true) {
                self.report_wait(&by);
            }
            tokio::select! {
                () = place.woken() => {}
                () = holder_lost(holder) => {}
                () = self.engine.closing() => return Err(closed()),
                () = self.wait_over() => return Err(self.contended(claim, by)),
            }
        }
    }

    /// Waits for a hint, or until the lease in the way can have ended; false if the waiter's own session has.
    async fn wait(&self, claim: &Claim, held: &Contention, place: &mut Option<Ticket>) -> Result<bool> {
        observe::waiting(claim.name(), claim.holder(), &held.by);
        // The place comes first: whoever begins to wait after this waiter was seen to wait is behind it.
        let joins = place.is_none() && !self.queued;
        if joins {
            *place = Some(self.engine.queues.join(&self.wanted.name));
        }
        self.report_wait(&held.by);
        if self.is_wait_over() {
            return Err(self.contended(claim, held.by.clone()));
        }
        if let Some(session) = &held.session {
            self.engine.track(session);
        }
        if joins && place.as_ref().is_some_and(|place| !place.is_head()) {
            return Ok(true);
        }
        // A store that answers "again, at once" for ever must not keep a processor busy.
        let look_again = held.retry_after.max(Duration::from_millis(1));
        let hint = async {
            if self.engine.store.wait(claim, held).await.is_err() {
                tokio::time::sleep(look_again.min(Duration::from_millis(250))).await;
            }
        };
        let look_again = self.engine.clock.now().after(look_again);
        tokio::select! {
            () = hint => {}
            () = woken(place.as_ref()) => {}
            () = self.engine.clock.sleep_until(look_again) => {}
            () = session_lost(held.session.as_ref()) => {}
            () = self.engine.closing() => return Err(closed()),
            () = self.wait_over() => return Err(self.contended(claim, held.by.clone())),
        }
        Ok(held.session.as_ref().is_none_or(Session::is_valid))
    }

    /// Pauses after a failure that may pass; gives the error back if it may not, or has lasted too long.
    async fn back_off(&self, trouble: &mut Option<Backoff>, claim: &Claim, error: Error) -> Result<()> {
        let now = self.engine.clock.now();
        let trouble = trouble.get_or_insert(Backoff { since: now, delay: Duration::from_millis(10) });
        // Who waits without a limit still wants to hear that there is no store.
        let patience = self.until.unwrap_or_else(|| trouble.since.after(claim.ttl()));
        if !error.is_retryable() || now >= patience {
            return Err(error);
        }
        self.engine.outage.retrying(claim.name(), claim.holder(), &error);
        let jitter = u64::from(claim.holder().as_u128() as u8);
        let pause = trouble.delay + trouble.delay * jitter as u32 / 512;
        trouble.delay = (trouble.delay * 2).min(Duration::from_secs(1));
        tokio::select! {
            () = self.engine.clock.sleep_until(now.after(pause).min(patience)) => Ok(()),
            () = self.engine.closing() => Err(closed()),
        }
    }

    fn report_wait(&self, by: &HeldBy) {
        if let Some(on_wait) = &self.wanted.on_wait {
            on_wait(by);
        }
    }

    fn contended(&self, claim: &Claim, by: HeldBy) -> Error {
        observe::contended(claim.name(), claim.holder());
        let waited = self.until.map(|until| until.since(self.started)).unwrap_or_default();
        let waited = match waited.is_zero() {
            true => "it is not waited for".to_owned(),
            false => format!("was not free within {waited:?}"),
        };
        Error::contended(format!("\"{}\" is held by {by}, and {waited}", claim.name()), Some(by))
    }
}

async fn woken(place: Option<&Ticket>) {
    match place {
        Some(place) => place.woken().await,
        None => std::future::pending().await,
    }
}

async fn session_lost(session: Option<&Session>) {
    match session {
        Some(session) => drop(session.lost().await),
        None => std::future::pending().await,
    }
}

async fn holder_lost(holder: Option<(Claim, Session)>) {
    match holder {
        Some((_, session)) => drop(session.lost().await),
        None => std::future::pending().await,
    }
}
