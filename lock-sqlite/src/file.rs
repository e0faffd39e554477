//! [`LockFile`]: the path and the identity of a lock file.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use lock_core::kit::locked;
use lock_core::{Error, ErrorKind, Filesystem, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::config::SqliteConfig;
use crate::error::{self, OpenError, invalid_file};
use crate::inode::{Inode, check_single_path};
use crate::wal_files::WalFiles;

/// The path and the identity of a lock file.
#[derive(Debug)]
pub(crate) struct LockFile {
    /// As it was given: other processes use this path too.
    path: PathBuf,
    /// With all symbolic links resolved, as SQLite does it: the log is beside this path.
    real: PathBuf,
    pub(crate) inode: Inode,
    pub(crate) filesystem: Filesystem,
    /// The identity after a reboot: the inode number and the creation time. A copy has others.
    pub(crate) place: String,
}

impl LockFile {
    /// Finds the file. If it may be missing, an empty one is created that only this user may read.
    ///
    /// # Errors
    ///
    /// Invalid configuration, denied or unavailable, with the path.
    pub(crate) fn find(config: &SqliteConfig) -> Result<LockFile> {
        let path = std::path::absolute(&config.path)
            .map_err(|e| error::classify_path(&config.path, &e, "it has no absolute path"))?;
        if !config.existing {
            let what = "the lock file cannot be made; its folder must exist and be writable";
            create_if_missing(&path).map_err(|failed| error::classify_path(&path, &failed, what))?;
        }
        let looking = |failed: io::Error| match failed.kind() {
            io::ErrorKind::NotFound if config.existing => invalid_file(
                &path,
                "is not there, and a lock file cannot be made by looking: whoever acquires a lock makes one",
            ),
            _ => error::classify_path(&path, &failed, "the lock file cannot be looked at"),
        };
        let real = path.canonicalize().map_err(looking)?;
        let file = std::fs::metadata(&real).map_err(looking)?;
        if !file.is_file() {
            let what = "is not a file; give the path of a lock file, or of one that does not exist yet";
            return Err(invalid_file(&path, what));
        }
        check_single_path(&real, &file)?;
        let filesystem = Filesystem::of(&real)
            .map_err(|failed| error::classify_path(&path, &failed, "its file system cannot be looked at"))?;
        if let Filesystem::Shared(name) = filesystem {
            let what = format!(
                "is on {name}, which other machines may write to; the store sqlite: needs a local file system, since its leases are judged by one machine's clock"
            );
            return Err(invalid_file(&path, what));
        }
        Ok(LockFile { inode: (&file).into(), place: place(&file), path, real, filesystem })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The path without symbolic links.
    pub(crate) fn real(&self) -> &Path {
        &self.real
    }

    /// Connects to it. Nothing is read or written yet, and nothing waits: the caller decides what
    /// to do about a busy file.
    ///
    /// # Errors
    ///
    /// Denied, unavailable, or invalid configuration.
    pub(crate) fn connect(&self) -> Result<Connection> {
        let flags =
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let connect = || {
            let connection = Connection::open_with_flags(&self.real, flags)?;
            connection.busy_timeout(Duration::ZERO)?;
            // The file may be another user's: nothing in it may run by itself.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_VIEW, false)?;
            let read_only = connection.is_readonly("main")?;
            Ok((connection, read_only))
        };
        let (connection, read_only) = connect().map_err(|e| error::classify_open(&self.path, e))?;
        if read_only {
            let text =
                format!("{} cannot be written to by this user; a lock file must be writable", self.path.display());
            return Err(Error::refused(ErrorKind::Denied, text));
        }
        Ok(connection)
    }

    /// The error for a caller that knows another file at this path.
    pub(crate) fn replaced(&self) -> Error {
        gone(&self.path)
    }

    /// Checks that the path still leads to this file, and that its log is still in place. Otherwise
    /// another process that opens the path sees other leases than this one.
    pub(crate) fn check_in_place(&self, wal_files: &WalFiles) -> Result<(), OpenError> {
        check_inode(&self.path, self.inode, std::fs::metadata(&self.path))?;
        for (path, inode) in wal_files.files(&self.real) {
            check_inode(&path, inode, std::fs::symlink_metadata(&path))?;
        }
        Ok(())
    }
}

fn check_inode(path: &Path, inode: Inode, found: io::Result<Metadata>) -> Result<(), OpenError> {
    let is_gone = match &found {
        Ok(file) => Inode::from(file) != inode,
        Err(failed) => matches!(failed.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    if is_gone {
        return Err(OpenError::Gone(gone(path)));
    }
    found.map(drop).map_err(|failed| OpenError::Refused(error::classify_path(path, &failed, "it cannot be looked at")))
}

fn gone(path: &Path) -> Error {
    invalid_file(path, "was removed or replaced while the lock file was in use; nothing was changed; connect again")
}

fn place(file: &Metadata) -> String {
    let created = file.created().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let created = created.unwrap_or_default();
    format!("{}:{}.{:09}", file.ino(), created.as_secs(), created.subsec_nanos())
}

/// Creates the file if there is none.
///
/// A process that closes a file loses all its POSIX locks on it, those of SQLite too. So this never
/// opens a file that exists, and a file that it creates is closed again before anything else in
/// this process can connect to it.
fn create_if_missing(path: &Path) -> io::Result<()> {
    static CREATING: Mutex<()> = Mutex::new(());
    let _creating = locked(&CREATING);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // On a read-only file system this is the error even if the file exists; connecting detects
        // that it cannot be written to.
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && path.exists() => Ok(()),
        created => created.map(drop),
    }
}
