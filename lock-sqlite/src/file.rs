//! [`LockFile`]: the file on the disk, found or made, and known again.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lock_core::{Error, ErrorKind, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::error;
use crate::filesystem::Filesystem;

/// The file on the disk, found or made, and known again.
#[derive(Debug)]
pub(crate) struct LockFile {
    path: PathBuf,
    identity: (u64, u64),
    pub(crate) filesystem: Filesystem,
}

impl LockFile {
    /// Finds the file at `path`, or makes an empty one that only this user may read.
    ///
    /// # Errors
    ///
    /// Invalid configuration, denied or unavailable, with the path.
    pub(crate) fn find_or_make(path: &Path) -> Result<LockFile> {
        let path = std::path::absolute(path).map_err(|e| error::of_path(path, &e, "it cannot be made absolute"))?;
        if let Err(failed) = make(&path) {
            return Err(error::of_path(
                &path,
                &failed,
                "the lock file cannot be made; its folder must exist and be writable",
            ));
        }
        let file = look(&path)?;
        if !file.is_file() {
            let text = format!(
                "{} is not a file; give the path of a lock file, or of one that does not exist yet",
                path.display()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let filesystem = Filesystem::of(&path)?;
        Ok(LockFile { path, identity: (file.dev(), file.ino()), filesystem })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Connects to it. Nothing is read or written yet, and nothing waits: who is in the way is the caller's to judge.
    ///
    /// # Errors
    ///
    /// Denied, unavailable, or invalid configuration.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connect = || {
            let connection = Connection::open_with_flags(&self.path, flags)?;
            connection.busy_timeout(std::time::Duration::ZERO)?;
            // The file may have been made by somebody else: nothing in it runs by itself.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
            let read_only = connection.is_readonly("main")?;
            Ok((connection, read_only))
        };
        let (connection, read_only) = connect().map_err(|e| error::of_opening(&self.path, e))?;
        if read_only {
            let text =
                format!("{} cannot be written to by this user; a lock file must be writable", self.path.display());
            return Err(Error::refused(ErrorKind::Denied, text));
        }
        Ok(connection)
    }

    /// Checks that the path still leads to this file. Somebody who opens the path when it does not would find other
    /// leases than we do.
    ///
    /// # Errors
    ///
    /// Invalid configuration if the file was removed or replaced.
    pub(crate) fn check_in_place(&self) -> Result<()> {
        match std::fs::metadata(&self.path) {
            Ok(file) if (file.dev(), file.ino()) == self.identity => Ok(()),
            _ => {
                let text = format!(
                    "{} was removed or replaced while it was in use; nothing was changed; connect again",
                    self.path.display()
                );
                Err(Error::refused(ErrorKind::InvalidConfig, text))
            }
        }
    }
}

fn look(path: &Path) -> Result<Metadata> {
    std::fs::metadata(path).map_err(|e| error::of_path(path, &e, "the lock file cannot be looked at"))
}

/// Makes the file if there is none.
///
/// A process that closes a file loses all POSIX locks that it has on it, those of SQLite too. So this never opens a
/// file that exists, and one that it makes is closed again before anybody else in this process can connect to it.
fn make(path: &Path) -> io::Result<()> {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A folder on a read-only file system says so even where the file exists; whether it can be written to is
        // found out when it is connected to.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && path.exists() => Ok(()),
        made => made.map(drop),
    }
}
