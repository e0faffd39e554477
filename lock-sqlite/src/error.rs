//! Errors: how those of SQLite and of the system are classified.

use std::io;
use std::path::Path;

use lock_core::{Effect, Error, ErrorKind};
use rusqlite::ErrorCode;

/// The error of an operation.
pub(crate) enum OpError {
    /// SQLite failed: the transaction is rolled back.
    Sqlite(rusqlite::Error),
    /// The operation was refused before it wrote anything.
    Refused(Error),
}

/// The error of opening a lock file, or of using an open one.
pub(crate) enum OpenError {
    /// It is refused.
    Refused(Error),
    /// The file, or its log, is no longer where other processes look for it.
    Gone(Error),
    /// Other processes use it with another log. Perhaps the last of them is just closing it.
    OtherLog,
}

impl From<rusqlite::Error> for OpError {
    fn from(error: rusqlite::Error) -> OpError {
        OpError::Sqlite(error)
    }
}

impl From<Error> for OpError {
    fn from(error: Error) -> OpError {
        OpError::Refused(error)
    }
}

impl OpError {
    /// The error of opening, or of an operation before its commit.
    pub(crate) fn into_error(self, path: &Path) -> Error {
        match self {
            OpError::Sqlite(error) => classify(path, error),
            OpError::Refused(error) => error,
        }
    }
}

impl From<Error> for OpenError {
    fn from(error: Error) -> OpenError {
        OpenError::Refused(error)
    }
}

impl OpenError {
    pub(crate) fn into_error(self, path: &Path) -> Error {
        match self {
            OpenError::Refused(error) | OpenError::Gone(error) => error,
            OpenError::OtherLog => other_log(path),
        }
    }
}

/// True if another process blocks access for now.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The error of an operation before its commit, or of a commit that certainly had no effect.
pub(crate) fn classify(path: &Path, error: rusqlite::Error) -> Error {
    let (kind, what) = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, "another process kept it busy for the whole busy_timeout")
        }
        Some(ErrorCode::DiskFull) => (ErrorKind::Unavailable, "the disk is full"),
        Some(ErrorCode::SystemIoFailure) => (ErrorKind::Unavailable, "the disk failed or is full"),
        Some(ErrorCode::OutOfMemory) => (ErrorKind::Unavailable, "there is no memory"),
        Some(ErrorCode::CannotOpen) => (ErrorKind::Unavailable, "it, or a file beside it, cannot be opened"),
        Some(ErrorCode::ReadOnly) => (ErrorKind::Denied, "it cannot be written to"),
        Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
            (ErrorKind::Denied, "this user may not use it")
        }
        Some(ErrorCode::NotADatabase) => (ErrorKind::Protocol, "it is no SQLite database"),
        Some(ErrorCode::DatabaseCorrupt) => (ErrorKind::Protocol, "it is damaged"),
        _ => (ErrorKind::Protocol, "SQLite answered what it should not"),
    };
    Error::refused(kind, format!("{}: {what}; nothing was changed", path.display())).with_source(error)
}

/// The error of a commit. A full disk is noticed before the commit record is complete; after any
/// other failure the outcome is in doubt.
pub(crate) fn classify_commit(path: &Path, error: rusqlite::Error) -> Error {
    let certain = is_busy(&error)
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::OutOfMemory)
        );
    if certain {
        return classify(path, error);
    }
    let text = format!("{}: the disk failed during a commit; the change may or may not be kept", path.display());
    Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error)
}

/// The error of opening the store. A permanent failure counts as a matter of configuration.
pub(crate) fn classify_open(path: &Path, error: rusqlite::Error) -> Error {
    let what = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => {
            "is no SQLite database; give the path of a lock file, or of a file that does not exist yet"
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            "is damaged; restore it from a backup and begin a new realm, or remove it and its -wal and -shm files while nobody uses it"
        }
        _ => {
            let denied = std::fs::File::options().read(true).write(true).open(path).err();
            let denied = denied.filter(|denied| denied.kind() == io::ErrorKind::PermissionDenied);
            return denied
                .map_or_else(|| classify(path, error), |denied| classify_path(path, &denied, "it cannot be opened"));
        }
    };
    Error::invalid_config(format!("{} {what}", path.display())).with_source(error)
}

/// A system error at a path.
pub(crate) fn classify_path(path: &Path, error: &io::Error, what: &str) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidConfig,
    };
    Error::refused(kind, format!("{}: {what}: {error}", path.display()))
}

fn other_log(path: &Path) -> Error {
    let text = format!(
        "{} is in use with another -wal or -shm file than those beside it: it has another path there, or one of the three was moved or removed; nothing was changed; end those who use it, and let all come by one path",
        path.display()
    );
    Error::invalid_config(text)
}

/// The error for corrupt contents: no program of ours wrote them.
pub(crate) fn corrupt(what: &str) -> Error {
    Error::refused(ErrorKind::Protocol, format!("the lock file holds what it should not: {what}; nothing was changed"))
}

/// The error for a file that cannot be a lock file.
pub(crate) fn invalid_file(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::invalid_config(format!("{} {what}", path.display()))
}

/// The error of a call after the worker thread has ended.
pub(crate) fn worker_ended(path: &Path, effect: Effect) -> Error {
    let text = format!("{}: the thread that works on it has ended; connect again", path.display());
    Error::new(ErrorKind::Unavailable, effect, text)
}
