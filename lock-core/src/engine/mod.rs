//! [`Engine`]: one task that renews, notices losses, and gives back what was dropped, for all locks of one `Locks`.

mod acquire;
mod lines;
mod round;
mod schedule;
mod withdrawal;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub(crate) use self::acquire::{Grant, OnWait, Wanted, acquire};
use self::lines::Lines;
use self::round::Round;
pub(crate) use self::schedule::Schedule;
use self::schedule::Timers;
use self::withdrawal::Unfinished;
pub(crate) use self::withdrawal::Withdrawal;
use crate::sync::locked;
use crate::{Clock, Error, ErrorKind, HolderInfo, LockStore, LossReason, Result, Session};

/// How many sessions are renewed with one call: few enough for one packet or script, and 10,000 leases are 20 calls.
const BATCH: usize = 512;

/// What all locks of one `Locks` share: the store, and the one task that works for them in the background.
///
/// The task starts at the first acquire, on the runtime of that acquire, and again on another one when that has gone.
/// It ends when nobody can acquire any more and nothing is left to do.
pub(crate) struct Engine {
    pub(crate) store: Arc<dyn LockStore>,
    pub(crate) clock: Clock,
    pub(crate) call_timeout: Duration,
    pub(crate) info: Arc<HolderInfo>,
    lines: Arc<Lines>,
    timers: Mutex<Timers>,
    withdrawals: Mutex<VecDeque<Unfinished>>,
    /// Withdrawals that are not finished, wherever they are.
    withdrawing: AtomicUsize,
    /// Told when the last of them is finished.
    settled: Notify,
    /// Told when there is something new to do.
    work: Notify,
    runs: AtomicBool,
    closed: AtomicBool,
    abandoned: AtomicBool,
}

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
            lines: Arc::default(),
            timers: Mutex::default(),
            withdrawals: Mutex::default(),
            withdrawing: AtomicUsize::new(0),
            settled: Notify::new(),
            work: Notify::new(),
            runs: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
        })
    }

    /// Checks that a new acquisition may begin here.
    pub(crate) fn admit(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::refused(ErrorKind::Closed, "these locks were closed"));
        }
        match Handle::try_current() {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::refused(ErrorKind::InvalidConfig, "acquiring a lock needs a tokio runtime")),
        }
    }

    /// Refuses new acquisitions, and waits until everything that was dropped is given back.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Release);
        loop {
            let settled = self.settled.notified();
            if self.withdrawing.load(Ordering::Acquire) == 0 {
                return;
            }
            self.ensure_running();
            settled.await;
        }
    }

    /// Nobody can acquire any more: the task ends when all guards are gone.
    pub(crate) fn abandon(&self) {
        self.abandoned.store(true, Ordering::Release);
        self.work.notify_one();
    }

    /// Renews `session` from now on, unless it is renewed already.
    pub(crate) fn keep(self: &Arc<Self>, session: &Session) {
        if locked(&self.timers).keep(session) {
            self.work.notify_one();
        }
        self.ensure_running();
    }

    /// Forgets the session of a lease that is given back. A shared one goes on: others may be on it.
    pub(crate) fn let_go(&self, session: &Session) {
        if session.only_claim().is_some() {
            locked(&self.timers).remove(session);
        }
    }

    /// One renewal of one session, now; gives the answer's failure.
    pub(crate) async fn renew_now(self: &Arc<Self>, session: &Session) -> Result<()> {
        let mut round = Round::begin(self, vec![session.clone()]);
        round.ask().await;
        round.unanswered().map_or(Ok(()), Err)
    }

    pub(crate) fn no_answer(&self, doing: &str) -> Error {
        let text = format!("{doing} brought no answer within {:?}", self.call_timeout);
        Error::new(ErrorKind::TimedOut, crate::Effect::Unknown, text)
    }

    /// One store call that changes nothing which must be given back, within the time for a call.
    pub(crate) async fn bounded<T>(&self, doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.call_timeout, call).await.unwrap_or_else(|_| Err(self.no_answer(doing)))
    }

    fn withdraw_later(self: &Arc<Self>, rest: Unfinished) {
        locked(&self.withdrawals).push_back(rest);
        self.work.notify_one();
        self.ensure_running();
    }

    /// Starts the task if it does not run and there is a runtime to run it on.
    fn ensure_running(self: &Arc<Self>) {
        if self.runs.load(Ordering::SeqCst) {
            return;
        }
        let Ok(runtime) = Handle::try_current() else { return };
        if self.runs.compare_exchange(false, true, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            let running = Running { engine: self.clone(), finished: false };
            runtime.spawn(running.run());
        }
    }

    fn has_work(&self) -> bool {
        !locked(&self.timers).is_empty() || self.withdrawing.load(Ordering::Acquire) > 0
    }
}

/// The engine while its task runs. Dropped with its runtime, it lets another runtime start the task again.
struct Running {
    engine: Arc<Engine>,
    finished: bool,
}

impl Running {
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
            tasks.spawn(Withdrawal::resume(&self.engine, rest).finish().instrument(span));
        }
    }

    /// Starts a renewal for every session that is due, in batches: the smaller, the more calls in a row brought no
    /// answer, so that one entry that hangs holds up fewer and fewer others.
    fn start_renewals(&self, tasks: &mut JoinSet<()>) {
        let engine = &self.engine;
        let now = engine.clock.now();
        let mut due = locked(&engine.timers).due(now);
        due.retain(|session| self.is_due(session, now));
        due.sort_by_key(|session| session.schedule().failures());
        while !due.is_empty() {
            let failures = due[0].schedule().failures();
            let size = (BATCH >> (3 * failures).min(usize::BITS - 1)).max(1);
            let alike = due.iter().take(size).take_while(|session| session.schedule().failures() == failures).count();
            let mut round = Round::begin(engine, due.drain(..alike).collect());
            let span = tracing::debug_span!("renew", sessions = alike);
            tasks.spawn(async move { round.ask().await }.instrument(span));
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
                Withdrawal::later(engine, claim.clone(), None);
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

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.runs.store(false, Ordering::SeqCst);
        // Something may have come in after the last look and before this: whoever brought it saw a running task.
        // If the runtime is ending, the next one starts the task.
        if self.finished && self.engine.has_work() {
            self.engine.ensure_running();
        }
    }
}
