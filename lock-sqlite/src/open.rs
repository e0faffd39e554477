//! [`Open`]: the lock file, open.

use std::path::Path;
use std::time::{Duration, Instant};

use lock_core::{Filesystem, Result};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::companions::Companions;
use crate::error::Unusable;
use crate::file::{Inode, LockFile};
use crate::machine::Machine;
use crate::presence::Presence;
use crate::{SqliteConfig, schema};

/// The lock file, open. Dropped, it is closed; whoever closes it last merges the log into it, and takes the two files
/// beside it away.
pub(crate) struct Open {
    // In this order they end: as long as the connection may merge, the file counts as in use.
    pub(crate) connection: Connection,
    beside: Companions,
    presence: Presence,
    file: LockFile,
    pub(crate) machine: Machine,
}

impl Open {
    /// Opens the file; with `known`, that one only.
    pub(crate) fn file(config: &SqliteConfig, known: Option<Inode>) -> Result<Open, Unusable> {
        let until = Instant::now() + config.busy_timeout;
        loop {
            match Open::once(config, known, until) {
                Err(Unusable::Apart) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                opened => return opened,
            }
        }
    }

    fn once(config: &SqliteConfig, known: Option<Inode>, until: Instant) -> Result<Open, Unusable> {
        let file = LockFile::find(config)?;
        if known.is_some_and(|known| known != file.inode) {
            return Err(Unusable::Gone(file.replaced()));
        }
        let machine = Machine::this(&file.place)?;
        let mut presence = Presence::enter(&file)?;
        let before = Companions::beside(file.real())?;
        if presence.others(&file, before.as_ref())? {
            return Err(Unusable::Apart);
        }
        let connection = file.connect()?;
        schema::open_log(file.path(), &connection, until)?;
        // From here on SQLite takes nothing away, as long as this connection is open. Before anything is written to the
        // log, it is known to be everybody's.
        let beside = Companions::beside(file.real())?.ok_or(Unusable::Apart)?;
        if before.is_some_and(|before| before != beside) || !presence.announce(&file, &beside)? {
            return Err(Unusable::Apart);
        }
        schema::settle(file.path(), &connection, &machine, config.adopt, until)?;
        file.check_in_place(&beside)?;
        Ok(Open { connection, beside, presence, file, machine })
    }

    pub(crate) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(crate) fn inode(&self) -> Inode {
        self.file.inode
    }

    pub(crate) fn filesystem(&self) -> Filesystem {
        self.file.filesystem
    }

    /// Checks that the three files are where others look for them.
    pub(crate) fn check_in_place(&self) -> Result<(), Unusable> {
        self.file.check_in_place(&self.beside)
    }

    /// Closes what is no longer where others look for it. What is in the log is merged, so that it goes with the lock
    /// file wherever that is now; nothing is taken away, since what stands at its path may be another's.
    pub(crate) fn leave(self) {
        let Open { connection, presence, .. } = self;
        let left = connection
            .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
            .and_then(|_| connection.execute_batch("pragma wal_checkpoint(full)"));
        if let Err(error) = left {
            tracing::warn!(%error, "what was written last could not be merged into the lock file that was moved");
        }
        drop(connection);
        drop(presence);
    }
}
