//! [`run`]: the one task of an engine, which renews, notices losses and gives back what was dropped.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinSet;
use tracing::Instrument as _;
use tracing::instrument::WithSubscriber as _;

use super::renewal_round::RenewalRound;
use super::shared::Engine;
use super::withdrawal::Withdrawal;
use crate::contract::Session;
use crate::sync::locked;
use crate::words::{LossReason, Moment};

/// How many sessions are renewed with one call: few enough for one packet or script, and 10,000 leases are 20 calls.
const MAX_BATCH_ENTRIES: usize = 512;

/// Into how many calls those renewals are split at most that were not answered, to find what holds the others up. A
/// store that answers nothing must not be asked for each lease by itself when it comes back.
const MAX_BATCH_PARTS: usize = 16;

/// The task of `engine`.
pub(super) fn run(engine: Arc<Engine>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(EngineTask { engine, finished: false }.run())
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

    async fn sleep_until(&self, next: Option<Moment>) {
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
    /// answer, so that one entry that hangs holds up fewer and fewer others; but in no more than [`MAX_BATCH_PARTS`] or as many as
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
    fn is_due(&self, session: &Session, now: Moment) -> bool {
        let engine = &self.engine;
        if let Some(reason) = session.loss() {
            locked(&engine.timers).remove(session);
            if let Some(claim) = session.only_claim().filter(|claim| claim.is_fixed() && reason == LossReason::Expired)
            {
                // It is given back at its end, a margin before the store would notice.
                engine.withdraw(claim.clone(), None);
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
