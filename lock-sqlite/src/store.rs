//! [`SqliteStore`].

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Effect, Error, ErrorKind, Eviction, Finding, Guarantees, HeldBy,
    LockName, LockStore, Publisher, RaiseOutcome, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser,
    async_trait,
};
use tokio::sync::oneshot;

use crate::error::worker_ended;
use crate::message::Message;
use crate::ops::{BreakLock, Inspect, List, NewRealm, Op, RaiseToken, Release, Renew, Request};
use crate::pending_op::PendingOp;
use crate::shared::Shared;

/// The store in one SQLite file, for many processes of one machine.
///
/// A thread of its own runs all operations; those that are pending at the same time share one
/// transaction. Dropping the store ends the thread, and does not block.
///
/// # Cancel safety
///
/// An operation whose future is dropped before it starts is not run at all. One that has started is
/// finished. Operations run in the order of their calls, so that a later release sees their effect;
/// renewals run before all that wait.
pub struct SqliteStore {
    pub(crate) path: PathBuf,
    pub(crate) guarantees: Guarantees,
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: mpsc::Sender<Message>,
}

impl SqliteStore {
    /// Number of transactions that this store has written to the disk, for measurements: concurrent
    /// operations share one.
    pub fn commits(&self) -> u64 {
        self.shared.commits()
    }

    pub(crate) async fn submit<O: Op>(&self, op: O) -> Result<O::Outcome> {
        let (pending_op, outcome) = PendingOp::new(op);
        self.worker.send(Message::Op(Box::new(pending_op))).map_err(|_| worker_ended(&self.path, Effect::None))?;
        outcome.recv(|effect| worker_ended(&self.path, effect)).await
    }
}

#[async_trait]
impl LockStore for SqliteStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.shared.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let held_before = claim.store_state(|| AtomicBool::new(false));
        let was_held = held_before.load(Ordering::Relaxed);
        let attempt = self.submit(Request { claim: claim.clone(), was_held }).await?;
        held_before.store(matches!(attempt, Attempt::Held(_)), Ordering::Relaxed);
        Ok(attempt)
    }

    async fn wait(&self, _claim: &Claim, held: &Contention) -> Result<()> {
        let subscription = self.shared.changes.subscribe();
        self.worker.send(Message::Waiting).map_err(|_| worker_ended(&self.path, Effect::None))?;
        subscription.changed_since(held.version).await;
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        let (entries, leases): (Vec<_>, Vec<_>) =
            batch.leases().map(|(entry, claim)| (entry, (claim.name().clone(), claim.holder(), claim.ttl()))).unzip();
        if leases.is_empty() {
            return Ok(());
        }
        match self.submit(Renew(leases)).await {
            Ok(answers) => entries.iter().zip(answers).for_each(|(entry, outcome)| entry.answer(outcome)),
            Err(error) => {
                // Other processes find another file at the path, in which this holder has no lock.
                if self.shared.is_gone() {
                    entries.iter().for_each(|entry| entry.lost(error.clone()));
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        self.submit(Release { name: claim.name().clone(), holder: claim.holder() }).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        Ok(self.submit(Inspect(name.clone())).await?.into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.submit(List { after: after.cloned(), limit }).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(holder) = seen.holder else { return Ok(None) };
        self.submit(BreakLock { name: name.clone(), holder, how }).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.submit(NewRealm).await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.findings().await
    }

    /// Closes the file. The last process to close it merges the log into it, and removes the `-wal`
    /// and `-shm` files. A later operation opens it again. While there are waiters it stays open.
    async fn close(&self) {
        let (closed, closing) = oneshot::channel();
        if self.worker.send(Message::Close(closed)).is_ok() {
            // A thread that has ended has closed the file too.
            let _ = closing.await;
        }
    }
}

#[async_trait]
impl TokenRaiser for SqliteStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        let number = i64::try_from(number).ok().filter(|number| *number < i64::MAX).ok_or_else(|| {
            let text = format!("{}: no token can follow {number} in a lease file", self.path.display());
            Error::refused(ErrorKind::Protocol, text)
        })?;
        self.submit(RaiseToken { name: claim.name().clone(), holder: claim.holder(), number }).await
    }

    fn record_store(&self) -> Option<&dyn lock_core::RecordStore> {
        None
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.path).finish_non_exhaustive()
    }
}
