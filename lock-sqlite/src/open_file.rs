//! [`OpenFile`]: an open lock file.

use std::path::Path;
use std::time::{Duration, Instant};

use lock_core::{Filesystem, Result};
use rusqlite::Connection;
use rusqlite::config::DbConfig;

use crate::config::SqliteConfig;
use crate::error::OpenError;
use crate::file::LockFile;
use crate::inode::Inode;
use crate::machine::Machine;
use crate::presence::Presence;
use crate::schema;
use crate::wal_files::WalFiles;

/// An open lock file. It is closed on drop; the last process to close it merges the log into it,
/// and removes the `-wal` and `-shm` files.
pub(crate) struct OpenFile {
    // Fields are dropped in this order: while the connection may merge, the file must count as in
    // use.
    pub(crate) connection: Connection,
    wal_files: WalFiles,
    presence: Presence,
    file: LockFile,
    pub(crate) machine: Machine,
}

impl OpenFile {
    /// Opens the file; with `known`, only that one.
    pub(crate) fn open(config: &SqliteConfig, known: Option<Inode>) -> Result<OpenFile, OpenError> {
        let deadline = Instant::now() + config.busy_timeout;
        loop {
            match OpenFile::try_open(config, known, deadline) {
                Err(OpenError::OtherLog) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
                opened => return opened,
            }
        }
    }

    fn try_open(config: &SqliteConfig, known: Option<Inode>, deadline: Instant) -> Result<OpenFile, OpenError> {
        let file = LockFile::find(config)?;
        if known.is_some_and(|known| known != file.inode) {
            return Err(OpenError::Gone(file.replaced()));
        }
        let machine = Machine::current(&file.place)?;
        let mut presence = Presence::open(&file)?;
        let before = WalFiles::find(file.real())?;
        if presence.is_used_with_other_log(&file, before.as_ref())? {
            return Err(OpenError::OtherLog);
        }
        let connection = file.connect()?;
        schema::open_log(file.path(), &connection, deadline)?;
        // From here on SQLite removes neither file while this connection is open. Before anything
        // is written to the log, it is known that all processes use the same one.
        let wal_files = WalFiles::find(file.real())?.ok_or(OpenError::OtherLog)?;
        if before.is_some_and(|before| before != wal_files) || !presence.announce(&file, &wal_files)? {
            return Err(OpenError::OtherLog);
        }
        schema::initialize(file.path(), &connection, &machine, config.adopt, deadline)?;
        file.check_in_place(&wal_files)?;
        Ok(OpenFile { connection, wal_files, presence, file, machine })
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

    /// Checks that the three files are where other processes look for them.
    pub(crate) fn check_in_place(&self) -> Result<(), OpenError> {
        self.file.check_in_place(&self.wal_files)
    }

    /// Closes a file that is no longer where other processes look for it. The log is merged, so
    /// that its contents stay with the lock file wherever that is now. Nothing is removed, since
    /// the files at its path may belong to another lock file.
    pub(crate) fn close_abandoned(self) {
        let OpenFile { connection, presence, .. } = self;
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
