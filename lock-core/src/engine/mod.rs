//! [`Engine`]: one task that renews, notices losses, and gives back what was dropped, for all locks of one `Locks`.

mod acquire;
mod call;
mod round;
mod schedule;
mod wait_queue;
mod withdrawal;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

pub(crate) use self::acquire::{AcquireRequest, Grant, OnWait, acquire};
use self::round::RenewalRound;
pub(crate) use self::schedule::Schedule;
use self::schedule::Timers;
use self::wait_queue::WaitQueues;
pub(crate) use self::withdrawal::Withdrawal;
use self::withdrawal::WithdrawalState;
use crate::connect::refuse_no_time;
use crate::observe::Outage;
use crate::sync::locked;
use crate::{
    Claim, Clock, Effect, Error, ErrorKind, Holder, HolderInfo, LockStore, LossReason, Result, Session, runtime,
};

/// How many sessions are renewed with one call: few enough for one packet or script, and 10,000 leases are 20 calls.
const MAX_BATCH_ENTRIES: usize = 512;

/// Into how many calls those renewals are split at most that were not answered, to find what holds the others up. A
/// store that answers nothing must not be asked for each lease by itself when it comes back.
const MAX_BATCH_PARTS: usize = 16;

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
    queues: Arc<WaitQueues>,
    timers: Mutex<Timers>,
    withdrawals: Mutex<VecDeque<WithdrawalState>>,
    /// Withdrawals that somebody waits for, wherever they are.
    withdrawing: AtomicUsize,
    /// Acquisitions that have neither a lease nor an error.
    acquiring: AtomicUsize,
    /// The claims of those of them that wait.
    waiters: Mutex<HashMap<Holder, Claim>>,
    /// Told when the last of either is finished.
    settled: Notify,
    /// For the releases that are under way in the background.
    turns: Semaphore,
    /// Told when there is something new to do.
    work: Notify,
    runs: AtomicBool,
    closed: AtomicBool,
    /// Told when it is closed.
    closing: Notify,
    abandoned: AtomicBool,
}

/// An acquisition that may go on: until it ends, closing waits for it.
pub(crate) struct AcquireCount(Arc<Engine>);

impl Engine {
    pub(crate) fn new(
        store: Arc<dyn LockStore>,
        clock: Clock,
        call_timeout: Duration,
        info: HolderInfo,
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
        refuse_no_time(self.call_timeout)?;
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
            Withdrawal::enqueue(self, claim, None);
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

    /// One renewal of one session, now; gives the answer's failure.
    pub(crate) async fn renew_now(self: &Arc<Self>, session: &Session) -> Result<()> {
        let mut round = RenewalRound::begin(self, vec![session.clone()]);
        round.run().await;
        round.unanswered().map_or(Ok(()), Err)
    }

    pub(crate) fn no_answer(&self, doing: &str) -> Error {
        let text = format!("{doing} brought no answer within {:?}", self.call_timeout);
        Error::new(ErrorKind::TimedOut, Effect::Unknown, text)
    }

    /// One store call that changes nothing which must be given back, within the time for a call.
    pub(crate) async fn bounded<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        refuse_no_time(self.call_timeout)?;
        runtime::background()?;
        let call = async { tokio::time::timeout(self.call_timeout, call).await };
        runtime::on_any_runtime(call).await.unwrap_or_else(|_| Err(self.no_answer(doing)))
    }

    fn withdraw_later(self: &Arc<Self>, rest: WithdrawalState) {
        locked(&self.withdrawals).push_back(rest);
        self.work.notify_one();
        self.ensure_running();
    }

    /// Starts the task if it does not run. What it tells goes to the subscriber of whoever starts it.
    fn ensure_running(self: &Arc<Self>) {
        if self.runs.load(Ordering::SeqCst) {
            return;
        }
        let Ok(runtime) = runtime::for_engine() else { return };
        if self.runs.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let running = EngineTask { engine: self.clone(), finished: false };
            runtime.spawn(running.run().with_current_subscriber());
        }
    }

    fn has_work(&self) -> bool {
        !locked(&self.timers).is_empty() || self.withdrawing.load(Ordering::Acquire) > 0
    }
}

pub(crate) fn closed() -> Error {
    Error::refused(ErrorKind::Closed, "these locks were closed")
}

impl Drop for AcquireCount {
    fn drop(&mut self) {
        if self.0.acquiring.fetch_sub(1, Ordering::SeqCst) == 1 && self.0.is_closed() {
            self.0.settled.notify_waiters();
        }
    }
}

/// The engine while its task runs. Dropped with its runtime, it lets another runtime start the task again.
struct EngineTask {
    engine: Arc<Engine>,
    finished: bool,
}

impl EngineTask {
    async fn run(mut self) {
        let mut tasks = JoinSet::new();
        loop {
            self.start_withdrawals(&mut tasks);
            self.start_renewals(&mut tasks);
            if self.engine.abandoned.load(Ordering::Acquire) && !self.engine.has_work() && tasks.is_empty() {
                self.finished = true;
                return;
            }
            let next = locked(&self.engine.timers).next(self.engine.clock.now());
            tokio::select! {
                () = self.engine.work.notified() => {}
                () = self.sleep_until(next) => {}
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
            }
        }
    }

    async fn sleep_until(&self, next: Option<crate::Moment>) {
        match next {
            Some(moment) => self.engine.clock.sleep_until(moment).await,
            None => std::future::pending().await,
        }
    }

    fn start_withdrawals(&self, tasks: &mut JoinSet<()>) {
        let waiting = std::mem::take(&mut *locked(&self.engine.withdrawals));
        for rest in waiting {
            let span = tracing::debug_span!("withdraw", name = %rest.name());
            let withdrawal = Withdrawal::resume(&self.engine, rest).finish();
            tasks.spawn(withdrawal.instrument(span).with_current_subscriber());
        }
    }

    /// Starts a renewal for every session that is due, in batches: the smaller, the more calls in a row brought no
    /// answer, so that one entry that hangs holds up fewer and fewer others; but in no more than [`PARTS`] or as many as
    /// full batches need, since what brings no answer at all is a store that is away.
    fn start_renewals(&self, tasks: &mut JoinSet<()>) {
        let engine = &self.engine;
        let now = engine.clock.now();
        let mut due = locked(&engine.timers).due(now);
        due.retain(|session| self.is_due(session, now));
        due.sort_by_key(|session| session.schedule().failures());
        let part = due.len().div_ceil(MAX_BATCH_PARTS).min(MAX_BATCH_ENTRIES);
        while !due.is_empty() {
            let failures = due[0].schedule().failures();
            let size = (MAX_BATCH_ENTRIES >> (3 * failures).min(usize::BITS - 1)).max(part);
            let alike = due.iter().take(size).take_while(|session| session.schedule().failures() == failures).count();
            let mut round = RenewalRound::begin(engine, due.drain(..alike).collect());
            let span = tracing::debug_span!("renew", sessions = alike);
            tasks.spawn(async move { round.run().await }.instrument(span).with_current_subscriber());
        }
    }

    /// Whether `session` is to be renewed now; plans or forgets it otherwise.
    fn is_due(&self, session: &Session, now: crate::Moment) -> bool {
        let engine = &self.engine;
        if let Some(reason) = session.loss() {
            locked(&engine.timers).remove(session);
            if let Some(claim) = session.only_claim().filter(|claim| claim.is_fixed() && reason == LossReason::Expired)
            {
                // It is given back at its end, a margin before the store would notice.
                Withdrawal::enqueue(engine, claim.clone(), None);
            }
            return false;
        }
        if session.is_renewed() && session.schedule().due(session.ttl()) <= now.after(session.ttl() / 20) {
            return true;
        }
        locked(&engine.timers).plan(session);
        false
    }
}

impl Drop for EngineTask {
    fn drop(&mut self) {
        self.engine.runs.store(false, Ordering::SeqCst);
        // Something may have come in after the last look and before this: whoever brought it saw a running task.
        // If the runtime is ending, the next one starts the task.
        if self.finished && self.engine.has_work() {
            self.engine.ensure_running();
        }
    }
}
