//! [`acquire`]: the loop of requests and waits, one for every store.

use std::sync::Arc;
use std::time::Duration;

use super::pending::{Grant, Pending, RequestOutcome, too_late};
use super::shared::{Engine, closed};
use super::wait_queue::{Ticket, held_by};
use crate::contract::{Claim, Contention, Session};
use crate::observe;
use crate::words::{Error, HeldBy, LockName, Moment, Result, WaitStyle};

/// An acquisition as the caller requests it.
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
    // Without this, a caller's loop over a store that answers at once would starve other tasks.
    tokio::task::coop::consume_budget().await;
    let _admitted = engine.admit()?;
    let started = engine.clock.now();
    let waits = wanted.patience != Patience::None;
    let queued = waits && engine.store.guarantees().waiting == WaitStyle::Queued;
    let ticket = if waits && !queued { engine.queues.join_existing(&wanted.name) } else { None };
    let mut pending = Pending::new(&engine, wanted.claim(&engine, queued));
    let mut first = None;
    if ticket.is_none() {
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
    Box::pin(waiter.acquire(pending, ticket, first)).await.map(Some)
}

/// An acquire that waits.
struct WaitingAcquire {
    engine: Arc<Engine>,
    wanted: AcquireRequest,
    started: Moment,
    until: Option<Moment>,
    queued: bool,
}

/// Backoff while the store fails to answer: since when, and the next delay.
struct Backoff {
    since: Moment,
    delay: Duration,
}

impl WaitingAcquire {
    /// Continues after the `first` answer, or with its `ticket` in this process's queue.
    async fn acquire(
        &self,
        mut pending: Pending,
        mut ticket: Option<Ticket>,
        mut first: Option<Result<RequestOutcome>>,
    ) -> Result<Grant> {
        let mut backoff = None;
        loop {
            let answer = match first.take() {
                Some(answer) => answer,
                None => {
                    if let Some(ticket) = &ticket {
                        self.wait_for_turn(ticket, &pending.claim).await?;
                    }
                    if pending.claim.is_retired() {
                        pending = self.fresh_request();
                    }
                    pending.request(self.engine.clock.now()).await
                }
            };
            match answer {
                Ok(RequestOutcome::Granted(grant, now)) => {
                    if let Some(ticket) = ticket {
                        ticket.grant_to(&grant.claim, &grant.session);
                    }
                    observe::acquired(grant.claim.name(), grant.claim.holder(), now.since(self.started));
                    return Ok(grant);
                }
                Ok(RequestOutcome::TooLate) => {
                    self.back_off(&mut backoff, &pending.claim, too_late(&pending.claim)).await?;
                    pending = self.fresh_request();
                }
                Ok(RequestOutcome::Closed) => return Err(closed()),
                Ok(RequestOutcome::Held(held)) => {
                    backoff = None;
                    pending.register_waiter();
                    if !self.wait(&pending.claim, &held, &mut ticket).await? {
                        // The session of its queue entry has ended: a new claim takes a new entry.
                        pending = self.fresh_request();
                    }
                }
                Err(error) => self.back_off(&mut backoff, &pending.claim, error).await?,
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

    /// Waits until `ticket` is the head of this process's queue, and the holder that the queue
    /// served before has lost or released the lock.
    async fn wait_for_turn(&self, ticket: &Ticket, claim: &Claim) -> Result<()> {
        let mut reported = false;
        loop {
            let holder = ticket.local_holder();
            if holder.is_none() && ticket.is_head() {
                return Ok(());
            }
            let by = holder.as_ref().map(|(holder, _)| held_by(holder)).unwrap_or_default();
            let by = ticket.ahead(by);
            if !std::mem::replace(&mut reported, true) {
                self.report_wait(&by);
            }
            tokio::select! {
                () = ticket.woken() => {}
                () = holder_lost(holder) => {}
                () = self.engine.closing() => return Err(closed()),
                () = self.wait_over() => return Err(self.contended(claim, by)),
            }
        }
    }

    /// Waits for a hint, or until the current lease can have ended. Returns false if the waiter's
    /// own session has ended.
    async fn wait(&self, claim: &Claim, held: &Contention, ticket: &mut Option<Ticket>) -> Result<bool> {
        observe::waiting(claim.name(), claim.holder(), &held.by);
        // The ticket is taken first: a waiter that starts after this one was reported is behind it.
        let joins = ticket.is_none() && !self.queued;
        if joins {
            *ticket = Some(self.engine.queues.join(&self.wanted.name));
        }
        self.report_wait(&held.by);
        if self.is_wait_over() {
            return Err(self.contended(claim, held.by.clone()));
        }
        if let Some(session) = &held.session {
            self.engine.track(session);
        }
        if joins && ticket.as_ref().is_some_and(|ticket| !ticket.is_head()) {
            return Ok(true);
        }
        // A store that always answers "retry at once" must not keep a processor busy.
        let retry_after = held.retry_after.max(Duration::from_millis(1));
        let hint = async {
            if self.engine.store.wait(claim, held).await.is_err() {
                tokio::time::sleep(retry_after.min(Duration::from_millis(250))).await;
            }
        };
        let retry_at = self.engine.clock.now().after(retry_after);
        tokio::select! {
            () = hint => {}
            () = woken(ticket.as_ref()) => {}
            () = self.engine.clock.sleep_until(retry_at) => {}
            () = session_lost(held.session.as_ref()) => {}
            () = self.engine.closing() => return Err(closed()),
            () = self.wait_over() => return Err(self.contended(claim, held.by.clone())),
        }
        Ok(held.session.as_ref().is_none_or(Session::is_valid))
    }

    /// Pauses after a failure that is retryable. Returns the error if it is not, or if it has
    /// lasted too long.
    async fn back_off(&self, backoff: &mut Option<Backoff>, claim: &Claim, error: Error) -> Result<()> {
        let now = self.engine.clock.now();
        let backoff = backoff.get_or_insert(Backoff { since: now, delay: Duration::from_millis(10) });
        // A caller that waits without a limit still needs an error if there is no store.
        let patience = self.until.unwrap_or_else(|| backoff.since.after(claim.ttl()));
        if !error.is_retryable() || now >= patience {
            return Err(error);
        }
        self.engine.outage.retrying(claim.name(), claim.holder(), &error);
        let jitter = u64::from(claim.holder().as_u128() as u8);
        let pause = backoff.delay + backoff.delay * jitter as u32 / 512;
        backoff.delay = (backoff.delay * 2).min(Duration::from_secs(1));
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

async fn woken(ticket: Option<&Ticket>) {
    match ticket {
        Some(ticket) => ticket.woken().await,
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
