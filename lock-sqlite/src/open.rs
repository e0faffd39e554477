//! Opening a [`SqliteStore`].

use std::sync::{Arc, mpsc};

use lock_core::{
    ClockKind, Effect, Error, ErrorKind, Expiry, Fault, Faults, Filesystem, Guarantees, Result, WaitStyle,
};
use tokio::sync::oneshot;

use crate::config::SqliteConfig;
use crate::error::worker_ended;
use crate::shared::Shared;
use crate::store::SqliteStore;
use crate::thread;

impl SqliteStore {
    /// The guarantees of a file on a disk.
    ///
    /// Every commit is synced, and the machine's boot-time clock is not affected when the wall
    /// clock is set. A pause is survived too: if a process or the whole machine is stopped, the one
    /// clock that ends leases goes on for all alike, and nobody else can end a lease meanwhile. No
    /// other server could take over, so that tokens trivially survive a fail-over.
    pub(crate) const AT_BEST: Guarantees = guarantees_with(
        Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::ClockStep, Fault::Pause]),
        Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
    );

    /// The guarantees of a file in memory: a power loss loses it, and its tokens.
    const IN_MEMORY: Guarantees = guarantees_with(
        Faults::of(&[Fault::Crash, Fault::ClockStep, Fault::Pause]),
        Faults::of(&[Fault::Crash, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
    );

    /// Opens the file, and creates it if it does not exist.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a path that is no lock file and cannot
    /// become one, a file of a newer program or of another machine, a file system or time namespace
    /// that cannot be used; [`Denied`](ErrorKind::Denied) if this user may not write to it;
    /// [`Unavailable`](ErrorKind::Unavailable) if the disk is full, or other processes kept it busy
    /// for the whole `busy_timeout`.
    ///
    /// # Cancel safety
    ///
    /// An opening that has begun is finished, and the file is then closed.
    pub async fn open(config: SqliteConfig) -> Result<SqliteStore> {
        config.check()?;
        let path = config.path.clone();
        let shared = Arc::new(Shared::new());
        let (worker, inbox) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        let theirs = shared.clone();
        // The thread is not joined: dropping a store never blocks, and an open transaction ends
        // with its connection.
        std::thread::Builder::new()
            .name("lock-sqlite".to_owned())
            .spawn(move || {
                thread::run(config, theirs, inbox, |result| {
                    // A caller that has gone has dropped the sender of the inbox as well.
                    let _ = opened.send(result);
                });
            })
            .map_err(|error| {
                let text = format!("{}: no thread for it could be started", path.display());
                Error::refused(ErrorKind::Unavailable, text).with_source(error)
            })?;
        let opened = opening.await.map_err(|_| worker_ended(&path, Effect::None))??;
        let guarantees = match opened.filesystem {
            Filesystem::Disk => Self::AT_BEST,
            Filesystem::Memory | Filesystem::Shared(_) => Self::IN_MEMORY,
        };
        Ok(SqliteStore { path, guarantees, shared, worker })
    }
}

const fn guarantees_with(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::BootTime))
        .waiting(WaitStyle::Polled)
}
