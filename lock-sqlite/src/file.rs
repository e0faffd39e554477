//! [`LockFile`]: the file on the disk, found or made, and known again.

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use lock_core::{Error, ErrorKind, Filesystem, Result};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::SqliteConfig;
use crate::companions::Companions;
use crate::error::{self, Unusable};

/// A file by itself, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    pub(crate) device: u64,
    pub(crate) number: u64,
}

impl From<&Metadata> for Inode {
    fn from(file: &Metadata) -> Inode {
        Inode { device: file.dev(), number: file.ino() }
    }
}

/// The file on the disk, found or made, and known again.
#[derive(Debug)]
pub(crate) struct LockFile {
    /// As it was given: others come by this path too.
    path: PathBuf,
    /// With every symbolic link resolved, as SQLite does it: beside this it keeps the other two.
    real: PathBuf,
    pub(crate) inode: Inode,
    pub(crate) filesystem: Filesystem,
    /// What the file is known by after a reboot: its number, and when it was made. A copy has others.
    pub(crate) place: String,
}

impl LockFile {
    /// Finds the file, or makes an empty one that only this user may read, unless it must exist.
    ///
    /// # Errors
    ///
    /// Invalid configuration, denied or unavailable, with the path.
    pub(crate) fn find(config: &SqliteConfig) -> Result<LockFile> {
        let path = std::path::absolute(&config.path)
            .map_err(|e| error::of_path(&config.path, &e, "it has no absolute path"))?;
        if !config.existing {
            let what = "the lock file cannot be made; its folder must exist and be writable";
            make(&path).map_err(|failed| error::of_path(&path, &failed, what))?;
        }
        let looking = |failed: io::Error| match failed.kind() {
            io::ErrorKind::NotFound if config.existing => refused(
                &path,
                "is not there, and a lock file cannot be made by looking: whoever acquires a lock makes one",
            ),
            _ => error::of_path(&path, &failed, "the lock file cannot be looked at"),
        };
        let real = path.canonicalize().map_err(looking)?;
        let file = std::fs::metadata(&real).map_err(looking)?;
        if !file.is_file() {
            let what = "is not a file; give the path of a lock file, or of one that does not exist yet";
            return Err(refused(&path, what));
        }
        check_alone(&real, &file)?;
        let filesystem = Filesystem::of(&real)
            .map_err(|failed| error::of_path(&path, &failed, "its file system cannot be looked at"))?;
        if let Filesystem::Shared(name) = filesystem {
            let what = format!(
                "is on {name}, which other machines may write to; the store sqlite: needs a local file system, since its leases are judged by one machine's clock"
            );
            return Err(refused(&path, what));
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

    /// Connects to it. Nothing is read or written yet, and nothing waits: who is in the way is the caller's to judge.
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

    /// The error of one who knows this path by another file.
    pub(crate) fn replaced(&self) -> Error {
        away(&self.path)
    }

    /// Checks that the path still leads to this file, and that what SQLite keeps beside it is still there. Somebody who
    /// opens the path when it does not would find other leases than we do.
    pub(crate) fn check_in_place(&self, beside: &Companions) -> Result<(), Unusable> {
        is_still(&self.path, self.inode, std::fs::metadata(&self.path))?;
        for (path, inode) in beside.files(&self.real) {
            is_still(&path, inode, std::fs::symlink_metadata(&path))?;
        }
        Ok(())
    }
}

fn is_still(path: &Path, inode: Inode, found: io::Result<Metadata>) -> Result<(), Unusable> {
    let is_away = match &found {
        Ok(file) => Inode::from(file) != inode,
        Err(failed) => matches!(failed.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    if is_away {
        return Err(Unusable::Gone(away(path)));
    }
    found.map(drop).map_err(|failed| Unusable::Refused(error::of_path(path, &failed, "it cannot be looked at")))
}

fn away(path: &Path) -> Error {
    refused(path, "was removed or replaced while the lock file was in use; nothing was changed; connect again")
}

/// Checks that nobody can come to `file` by another path and find other files beside it: SQLite keeps what was written
/// last in a file beside the path that it is opened by. `real` has no symbolic links.
pub(crate) fn check_alone(real: &Path, file: &Metadata) -> Result<()> {
    if file.nlink() > 1 {
        let what = format!(
            "has {} names (hard links), and who uses another one would not see its leases; leave it one name, or use symbolic links",
            file.nlink()
        );
        return Err(refused(real, what));
    }
    match Filesystem::is_mounted_alone(real) {
        Ok(false) => Ok(()),
        Ok(true) => Err(refused(
            real,
            "is mounted here as a single file, and who uses it in its own folder would not see its leases; mount the folder",
        )),
        Err(failed) => Err(error::of_path(real, &failed, "its mount cannot be looked at")),
    }
}

pub(crate) fn refused(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::refused(ErrorKind::InvalidConfig, format!("{} {what}", path.display()))
}

fn place(file: &Metadata) -> String {
    let made = file.created().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let made = made.unwrap_or_default();
    format!("{}:{}.{:09}", file.ino(), made.as_secs(), made.subsec_nanos())
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
