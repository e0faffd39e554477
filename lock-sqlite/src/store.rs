//! [`SqliteStore`].

use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use lock_core::{
    Attempt, Beat, BreakMode, Claim, ClockKind, Contention, Effect, Error, ErrorKind, Eviction, Expiry, Fault, Faults,
    Filesystem, Guarantees, HeldBy, LockName, LockStore, RaiseOutcome, Realm, ReleaseOutcome, RenewalBatch,
    RenewalOutcome, Result, TokenRaiser, WaitStyle, async_trait,
};
use tokio::sync::oneshot;

use crate::SqliteConfig;
use crate::job::Job;
use crate::shared::Shared;
use crate::steps::{BreakLock, Inspect, List, NewRealm, RaiseToken, Release, Renew, Request, Step};
use crate::worker::{self, Message};

/// The store in one SQLite file, for many processes of one machine.
///
/// A thread of its own does every step; what waits for it at the same time shares one transaction. Dropping the store
/// lets that thread end, and blocks on nothing.
///
/// # Cancel safety
///
/// A step whose future is dropped before its turn is not done at all. One that has begun is finished; steps are done in
/// the order in which they were asked for, so that a release that follows finds what it did.
pub struct SqliteStore {
    path: PathBuf,
    guarantees: Guarantees,
    shared: Arc<Shared>,
    worker: mpsc::Sender<Message>,
}

impl SqliteStore {
    /// What a file on a disk promises.
    ///
    /// Every commit is synced, and the machine's boot-time clock does not notice that the wall clock is set. A pause is
    /// survived too: whoever is stopped, or the whole machine, the one clock that ends leases goes on for all alike, and
    /// nobody else could end one meanwhile. There is no other server that could take over, so that tokens survive a
    /// fail-over for free.
    pub(crate) const AT_BEST: Guarantees = promises(
        Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::ClockStep, Fault::Pause]),
        Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
    );

    /// What a file in memory promises: with the power it is gone, and so are its tokens.
    const IN_MEMORY: Guarantees = promises(
        Faults::of(&[Fault::Crash, Fault::ClockStep, Fault::Pause]),
        Faults::of(&[Fault::Crash, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
    );

    /// Opens the file, and makes it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a path that is no lock file and cannot become one, a file of a
    /// newer program or of another machine, a file system or time namespace that cannot be used;
    /// [`Denied`](ErrorKind::Denied) if this user may not write to it; [`Unavailable`](ErrorKind::Unavailable) if the
    /// disk is full, or others kept it busy for the whole `busy_timeout`.
    ///
    /// # Cancel safety
    ///
    /// What was begun is finished, and then closed.
    pub async fn open(config: SqliteConfig) -> Result<SqliteStore> {
        config.check()?;
        let path = config.path.clone();
        let shared = Arc::new(Shared::new());
        let (worker, inbox) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        let theirs = shared.clone();
        // It is not joined: dropping a store never blocks, and an open transaction ends with its connection.
        std::thread::Builder::new()
            .name("lock-sqlite".to_owned())
            .spawn(move || {
                worker::run(config, theirs, inbox, |result| {
                    // Whoever went away meanwhile has dropped the other end of the inbox as well.
                    let _ = opened.send(result);
                });
            })
            .map_err(|error| {
                let text = format!("{}: no thread for it could be started", path.display());
                Error::refused(ErrorKind::Unavailable, text).with_source(error)
            })?;
        let opened = opening.await.map_err(|_| gone(&path, Effect::None))??;
        let guarantees = match opened.filesystem {
            Filesystem::Disk => Self::AT_BEST,
            Filesystem::Memory | Filesystem::Shared(_) => Self::IN_MEMORY,
        };
        Ok(SqliteStore { path, guarantees, shared, worker })
    }

    /// How many transactions this store has written to the disk, for figures: steps that are asked for at the same time
    /// share one.
    pub fn commits(&self) -> u64 {
        self.shared.commits()
    }

    async fn ask<S: Step>(&self, step: S) -> Result<S::Answer> {
        let (job, answer) = Job::new(step);
        self.worker.send(Message::Task(Box::new(job))).map_err(|_| gone(&self.path, Effect::None))?;
        answer.await.map_err(|_| gone(&self.path, Effect::Unknown))?
    }
}

const fn promises(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::BootTime))
        .waiting(WaitStyle::Polled)
}

fn gone(path: &std::path::Path, effect: Effect) -> Error {
    let text = format!("{}: the thread that works on it has ended; connect again", path.display());
    Error::new(ErrorKind::Unavailable, effect, text)
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
        let again = held_before.load(Ordering::Relaxed);
        let attempt = self.ask(Request { claim: claim.clone(), again }).await?;
        held_before.store(matches!(attempt, Attempt::Held(_)), Ordering::Relaxed);
        Ok(attempt)
    }

    async fn wait(&self, _claim: &Claim, held: &Contention) -> Result<()> {
        let waiter = self.shared.changes.waiter();
        self.worker.send(Message::Waiting).map_err(|_| gone(&self.path, Effect::None))?;
        waiter.until_not(held.version).await;
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        let mut entries = Vec::with_capacity(batch.len());
        let mut leases = Vec::with_capacity(batch.len());
        for entry in batch {
            match entry.of() {
                Beat::Lease(claim) => {
                    entries.push(entry);
                    leases.push((claim.name().clone(), claim.holder(), claim.ttl()));
                }
                Beat::Session(_) => {
                    let text = format!("{}: a lease file has no sessions that could be renewed", self.path.display());
                    batch.fail(Error::refused(ErrorKind::Protocol, text));
                }
            }
        }
        if leases.is_empty() {
            return;
        }
        match self.ask(Renew(leases)).await {
            Ok(answers) => entries.iter().zip(answers).for_each(|(entry, answer)| entry.answer(answer)),
            Err(error) => {
                batch.fail(error);
                // Others find another file there, in which this holder has nothing.
                if self.shared.is_gone() {
                    entries.iter().for_each(|entry| entry.answer(RenewalOutcome::NotHeld));
                }
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        self.ask(Release { name: claim.name().clone(), holder: claim.holder() }).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        self.ask(Inspect(name.clone())).await
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        self.ask(List { after: after.cloned(), limit }).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(holder) = seen.holder else { return Ok(None) };
        self.ask(BreakLock { name: name.clone(), holder, how }).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.ask(NewRealm).await
    }

    /// Closes the file: whoever closes it last merges the log into it, and takes the two files beside it away. A step
    /// that comes all the same opens it again. While somebody waits it stays open.
    async fn close(&self) {
        let (closed, closing) = oneshot::channel();
        if self.worker.send(Message::Close(closed)).is_ok() {
            // A thread that has ended has closed it too.
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
        self.ask(RaiseToken { name: claim.name().clone(), holder: claim.holder(), number }).await
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
