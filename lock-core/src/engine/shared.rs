//! [`Engine`]: the state that all locks of one `Locks` share.

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

/// Maximum number of background releases in flight at once.
const MAX_BACKGROUND_RELEASES: usize = 256;

/// Time for which closing waits for the store to close.
const STORE_CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state that all locks of one `Locks` share: the store, and the one task that works in the
/// background.
///
/// The task belongs to no caller: it runs on the background runtime (see [`runtime`]). It starts at
/// the first acquire, and ends when no new acquire is possible and no work is left.
///
/// Lock order: `waiters` before `withdrawals`, and `timers` or `queues` before the mutexes of a
/// [`Session`]; never the other way round.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn LockStore>,
    pub(crate) clock: Clock,
    pub(crate) call_timeout: Duration,
    pub(crate) info: Arc<HolderInfo>,
    pub(crate) outage: Outage,
    pub(super) queues: Arc<WaitQueues>,
    pub(super) timers: Mutex<Timers>,
    pub(super) withdrawals: Mutex<VecDeque<WithdrawalState>>,
    /// Number of withdrawals that closing waits for.
    pub(super) withdrawing: AtomicUsize,
    /// Number of acquisitions that have neither a lease nor an error yet.
    acquiring: AtomicUsize,
    /// Claims of the acquisitions that wait.
    pub(super) waiters: Mutex<HashMap<Holder, Claim>>,
    /// Notified when `withdrawing` or `acquiring` reaches zero.
    pub(super) settled: Notify,
    /// Permits for background releases.
    pub(super) turns: Semaphore,
    /// Wakes the task: there is new work.
    pub(super) work: Notify,
    pub(super) runs: AtomicBool,
    closed: AtomicBool,
    /// Notified when it is closed.
    closing: Notify,
    pub(super) abandoned: AtomicBool,
    task: Task,
}

/// The background task of an engine. It is a parameter, since the module of the task imports this
/// one.
pub(super) type Task = fn(Arc<Engine>) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts one acquisition: closing waits until it is dropped.
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

    /// Admits a new acquisition.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<AcquireCount> {
        // Counted before the check: closing sets the flag before it reads the count, so that one of
        // the two sees the other.
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

    /// Refuses new acquisitions, ends those that wait, waits until everything that was dropped is
    /// given back, and closes the store.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::SeqCst);
        self.closing.notify_waiters();
        let ended = self.drained(&self.acquiring);
        if tokio::time::timeout(self.call_timeout, ended).await.is_err() {
            self.withdraw_waiters();
        }
        self.drained(&self.withdrawing).await;
        // A store that cannot close in time loses nothing.
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

    /// Withdraws the waiters whose future is neither polled nor dropped, since their runtime does
    /// not run.
    fn withdraw_waiters(self: &Arc<Self>) {
        let waiters = std::mem::take(&mut *locked(&self.waiters));
        for (_, claim) in waiters {
            claim.deadline().end(LossReason::Released);
            claim.set_in_doubt();
            self.withdraw(claim, None);
        }
    }

    /// Notes that no new acquire is possible: the task ends when all guards are gone.
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

    /// Stops renewing the session of a lease that is given back. A shared session stays: other
    /// claims may be on it.
    pub(crate) fn forget(&self, session: &Session) {
        if session.only_claim().is_some() {
            locked(&self.timers).remove(session);
        }
    }

    pub(crate) fn no_answer(&self, doing: &str) -> Error {
        Error::no_answer(doing, self.call_timeout, Effect::Unknown)
    }

    /// Makes one store call, within the call time-out, that leaves nothing to give back.
    pub(crate) async fn bounded<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        check_call_timeout(self.call_timeout)?;
        runtime::background()?;
        let call = async { tokio::time::timeout(self.call_timeout, call).await };
        runtime::on_any_runtime(call).await.unwrap_or_else(|_| Err(self.no_answer(doing)))
    }

    /// Withdraws `claim` in the background, after finishing the `request` that is in flight.
    pub(crate) fn withdraw(self: &Arc<Self>, claim: Claim, request: Option<Call<Attempt>>) {
        let state = self.begin_withdrawal(claim, request);
        self.resume_withdrawal(state);
    }

    /// Starts a withdrawal. Closing waits for it from now on.
    pub(super) fn begin_withdrawal(&self, claim: Claim, request: Option<Call<Attempt>>) -> WithdrawalState {
        self.withdrawing.fetch_add(1, Ordering::AcqRel);
        WithdrawalState::new(claim, request, self.clock.now())
    }

    /// Hands a withdrawal to the task.
    pub(super) fn resume_withdrawal(self: &Arc<Self>, state: WithdrawalState) {
        locked(&self.withdrawals).push_back(state);
        self.work.notify_one();
        self.ensure_running();
    }

    /// Starts the task if it does not run. Its events go to the tracing subscriber of this caller.
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

/// Refuses a call time-out of zero, in which no call could be answered.
pub(crate) fn check_call_timeout(limit: Duration) -> Result<()> {
    match limit.is_zero() {
        false => Ok(()),
        true => Err(Error::invalid_config(
            "the call time-out 0s is not accepted: no call could be answered; give a time, such as 5s",
        )),
    }
}

/// Error of an acquisition after closing.
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
