//! [`Engine`]: what all locks of one `Locks` share.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tracing::instrument::WithSubscriber as _;

use super::call::Call;
use super::timers::Timers;
use super::wait_queue::WaitQueues;
use super::withdrawal_state::WithdrawalState;
use crate::contract::{Attempt, Claim, LockStore, Session};
use crate::observe::Outage;
use crate::runtime;
use crate::sync::locked;
use crate::words::{Clock, Effect, Error, ErrorKind, Holder, HolderInfo, LossReason, Result};

/// How many releases are under way at once for guards that were dropped.
const MAX_BACKGROUND_RELEASES: usize = 256;

/// How long closing waits for a store that puts away what it has open.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// What all locks of one `Locks` share: the store, and the one task that works for them in the background.
///
/// The task belongs to no caller: it runs on the runtime in the background (see [`runtime`]). It starts at the first
/// acquire, and ends when nobody can acquire any more and nothing is left to do.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn LockStore>,
    pub(crate) clock: Clock,
    pub(crate) call_timeout: Duration,
    pub(crate) info: Arc<HolderInfo>,
    pub(crate) outage: Outage,
    pub(super) queues: Arc<WaitQueues>,
    pub(super) timers: Mutex<Timers>,
    pub(super) withdrawals: Mutex<VecDeque<WithdrawalState>>,
    /// Withdrawals that somebody waits for, wherever they are.
    pub(super) withdrawing: AtomicUsize,
    /// Acquisitions that have neither a lease nor an error.
    acquiring: AtomicUsize,
    /// The claims of those of them that wait.
    pub(super) waiters: Mutex<HashMap<Holder, Claim>>,
    /// Told when the last of either is finished.
    pub(super) settled: Notify,
    /// For the releases that are under way in the background.
    pub(super) turns: Semaphore,
    /// Told when there is something new to do.
    pub(super) work: Notify,
    pub(super) runs: AtomicBool,
    closed: AtomicBool,
    /// Told when it is closed.
    closing: Notify,
    pub(super) abandoned: AtomicBool,
    task: Task,
}

/// The background task of an engine; given to it by whoever makes one, since the task knows the engine.
pub(super) type Task = fn(Arc<Engine>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// An acquisition that may go on: until it ends, closing waits for it.
pub(crate) struct AcquireCount(Arc<Engine>);

impl Engine {
    pub(crate) fn new(
        store: Arc<dyn LockStore>,
        clock: Clock,
        call_timeout: Duration,
        info: HolderInfo,
        task: Task,
    ) -> Arc<Engine> {
        Arc::new(Engine {
            store,
            clock,
            call_timeout,
            info: Arc::new(info),
            outage: Outage::default(),
            queues: Arc::default(),
            timers: Mutex::default(),
            withdrawals: Mutex::default(),
            withdrawing: AtomicUsize::new(0),
            acquiring: AtomicUsize::new(0),
            waiters: Mutex::default(),
            settled: Notify::new(),
            turns: Semaphore::new(MAX_BACKGROUND_RELEASES),
            work: Notify::new(),
            runs: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            closing: Notify::new(),
            abandoned: AtomicBool::new(false),
            task,
        })
    }

    /// Begins a new acquisition.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<AcquireCount> {
        // Counted before the look: closing looks the other way round, so that one of the two sees the other.
        self.acquiring.fetch_add(1, Ordering::SeqCst);
        let admitted = AcquireCount(self.clone());
        if self.is_closed() {
            return Err(closed());
        }
        check_call_timeout(self.call_timeout)?;
        if !self.runs.load(Ordering::Relaxed) {
            runtime::for_engine()?;
        }
        Ok(admitted)
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Completes when it is closed.
    pub(crate) async fn closing(&self) {
        let closing = self.closing.notified();
        if !self.is_closed() {
            closing.await;
        }
    }

    /// Refuses new acquisitions, ends those that wait, waits until everything that was dropped is given back, and has the
    /// store put away what it has open.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
        let ended = self.drained(&self.acquiring);
        if tokio::time::timeout(self.call_timeout, ended).await.is_err() {
            self.withdraw_waiters();
        }
        self.drained(&self.withdrawing).await;
        // A store that cannot do it in time loses nothing by that.
        let _ = tokio::time::timeout(self.call_timeout.min(STORE_CLOSE_TIMEOUT), self.store.close()).await;
    }

    async fn drained(self: &Arc<Self>, count: &AtomicUsize) {
        loop {
            let settled = self.settled.notified();
            if count.load(Ordering::SeqCst) == 0 {
                return;
            }
            self.ensure_running();
            settled.await;
        }
    }

    /// Gives back what those may have whose future is neither polled nor dropped: theirs is a runtime that stands still.
    fn withdraw_waiters(self: &Arc<Self>) {
        for (_, claim) in std::mem::take(&mut *locked(&self.waiters)) {
            claim.deadline().end(LossReason::Released);
            claim.set_in_doubt();
            self.withdraw(claim, None);
        }
    }

    /// Nobody can acquire any more: the task ends when all guards are gone.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// Renews `session` from now on, unless it is renewed already.
    pub(crate) fn track(self: &Arc<Self>, session: &Session) {
        if locked(&self.timers).keep(session) {
            self.work.notify_one();
        }
        self.ensure_running();
    }

    /// Forgets the session of a lease that is given back. A shared one goes on: others may be on it.
    pub(crate) fn forget(&self, session: &Session) {
        if session.only_claim().is_some() {
            locked(&self.timers).remove(session);
        }
    }

    pub(crate) fn no_answer(&self, doing: &str) -> Error {
        let text = format!("{doing} brought no answer within {:?}", self.call_timeout);
        Error::new(ErrorKind::TimedOut, Effect::Unknown, text)
    }

    /// One store call that changes nothing which must be given back, within the time for a call.
    pub(crate) async fn bounded<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        check_call_timeout(self.call_timeout)?;
        runtime::background()?;
        let call = async { tokio::time::timeout(self.call_timeout, call).await };
        runtime::on_any_runtime(call).await.unwrap_or_else(|_| Err(self.no_answer(doing)))
    }

    /// Gives `claim` back in the background, after finishing the `request` that is in flight.
    pub(crate) fn withdraw(self: &Arc<Self>, claim: Claim, request: Option<Call<Attempt>>) {
        let rest = self.begin_withdrawal(claim, request);
        self.resume_withdrawal(rest);
    }

    /// Closing waits for it from now on.
    pub(super) fn begin_withdrawal(&self, claim: Claim, request: Option<Call<Attempt>>) -> WithdrawalState {
        self.withdrawing.fetch_add(1, Ordering::AcqRel);
        WithdrawalState::new(claim, request, self.clock.now())
    }

    /// Lets the task go on with a withdrawal.
    pub(super) fn resume_withdrawal(self: &Arc<Self>, rest: WithdrawalState) {
        locked(&self.withdrawals).push_back(rest);
        self.work.notify_one();
        self.ensure_running();
    }

    /// Starts the task if it does not run. What it tells goes to the subscriber of whoever starts it.
    pub(super) fn ensure_running(self: &Arc<Self>) {
        if self.runs.load(Ordering::SeqCst) {
            return;
        }
        let Ok(runtime) = runtime::for_engine() else { return };
        if self.runs.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            runtime.spawn((self.task)(self.clone()).with_current_subscriber());
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !locked(&self.timers).is_empty() || self.withdrawing.load(Ordering::Acquire) > 0
    }
}

/// Refuses a call time-out in which no call could be answered.
pub(crate) fn check_call_timeout(limit: Duration) -> Result<()> {
    match limit.is_zero() {
        false => Ok(()),
        true => Err(Error::refused(
            ErrorKind::InvalidConfig,
            "the call time-out 0s is not accepted: no call could be answered; give a time, such as 5s",
        )),
    }
}

/// The error of an acquisition after closing.
pub(super) fn closed() -> Error {
    Error::refused(ErrorKind::Closed, "these locks were closed")
}

impl Drop for AcquireCount {
    fn drop(&mut self) {
        if self.0.acquiring.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
            self.0.settled.notify_waiters();
        }
    }
}
