//! [`run`]: the one task of an engine, which renews, detects losses and withdraws what was dropped.

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

/// Maximum number of sessions in one renewal call: few enough for one packet or script, and 10,000
/// leases are 20 calls.
const MAX_BATCH_ENTRIES: usize = 512;

/// Maximum number of calls into which unanswered renewals are split, to find the entry that blocks
/// the others. A store that answers nothing must not get one call per lease when it recovers.
const MAX_BATCH_PARTS: usize = 16;

/// The task of `engine`.
pub(super) fn run(engine: Arc<Engine>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(EngineTask { engine, finished: false }.run())
}

/// The engine while its task runs. When it is dropped with its runtime, another runtime can start
/// the task again.
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
        let waiting_withdrawals = std::mem::take(&mut *locked(&self.engine.withdrawals));
        for state in waiting_withdrawals {
            let span = tracing::debug_span!("withdraw", name = %state.name());
            let withdrawal = Withdrawal::resume(&self.engine, state).finish();
            tasks.spawn(withdrawal.instrument(span).with_current_subscriber());
        }
    }

    /// Starts a renewal for every session that is due, in batches. A batch is smaller the more
    /// calls in a row had no answer, so that one entry that hangs blocks fewer and fewer others.
    /// There are at most [`MAX_BATCH_PARTS`] batches, or as many as full batches need: if no entry
    /// gets an answer, the store is down.
    fn start_renewals(&self, tasks: &mut JoinSet<()>) {
        let engine = &self.engine;
        let now = engine.clock.now();
        let mut due = locked(&engine.timers).due(now);
        due.retain(|session| self.is_due(session, now));
        due.sort_by_key(|session| session.schedule().failures());
        let min_entries = due.len().div_ceil(MAX_BATCH_PARTS).min(MAX_BATCH_ENTRIES);
        while !due.is_empty() {
            let failures = due[0].schedule().failures();
            let size = (MAX_BATCH_ENTRIES >> (3 * failures).min(usize::BITS - 1)).max(min_entries);
            let entries = due.iter().take(size).take_while(|session| session.schedule().failures() == failures).count();
            let mut round = RenewalRound::begin(engine, due.drain(..entries).collect());
            let span = tracing::debug_span!("renew", sessions = entries);
            tasks.spawn(async move { round.run().await }.instrument(span).with_current_subscriber());
        }
    }

    /// True if `session` is to be renewed now; otherwise it is planned or removed.
    fn is_due(&self, session: &Session, now: Moment) -> bool {
        let engine = &self.engine;
        if let Some(reason) = session.loss() {
            locked(&engine.timers).remove(session);
            if let Some(claim) = session.only_claim().filter(|claim| claim.is_fixed() && reason == LossReason::Expired)
            {
                // A fixed lease is given back at its end, a margin before the store would end it.
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
        // Work may have arrived between the last check and this point, when its sender saw a
        // running task. If the runtime is ending, the next one starts the task.
        if self.finished && self.engine.has_work() {
            self.engine.ensure_running();
        }
    }
}
