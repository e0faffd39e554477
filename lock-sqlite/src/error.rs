//! From SQLite's errors, and the system's, to ours.

use std::io;
use std::path::Path;

use lock_core::{Effect, Error, ErrorKind};
use rusqlite::ErrorCode;

/// Why a step did not come to its answer.
pub(crate) enum Failure {
    /// SQLite failed: the transaction is rolled back.
    Sqlite(rusqlite::Error),
    /// The step was refused, before it wrote anything.
    Refused(Error),
}

/// Why a lock file cannot be used, or no longer.
pub(crate) enum Unusable {
    /// For this reason.
    Refused(Error),
    /// It, or what SQLite keeps beside it, is no longer where others look for it.
    Gone(Error),
    /// Others use it with another log. It may be that the last of them is just closing it.
    Apart,
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Failure {
        Failure::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Refused(error)
    }
}

impl Failure {
    /// The error of an opening or a step before its commit.
    pub(crate) fn into_error(self, path: &Path) -> Error {
        match self {
            Failure::Sqlite(error) => of_sqlite(path, error),
            Failure::Refused(error) => error,
        }
    }
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Unusable {
        Unusable::Refused(error)
    }
}

impl Unusable {
    pub(crate) fn into_error(self, path: &Path) -> Error {
        match self {
            Unusable::Refused(error) | Unusable::Gone(error) => error,
            Unusable::Apart => apart(path),
        }
    }
}

/// Whether another process is in the way, for now.
pub(crate) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// The error of a step before its commit, or of a commit that certainly did nothing.
pub(crate) fn of_sqlite(path: &Path, error: rusqlite::Error) -> Error {
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

/// The error of a commit. A full disk is noticed before the commit's last mark is written; after any other failure the
/// commit may yet be found on the disk.
pub(crate) fn of_commit(path: &Path, error: rusqlite::Error) -> Error {
    let certain = is_busy(&error)
        || matches!(
            error.sqlite_error_code(),
            Some(ErrorCode::DiskFull | ErrorCode::ReadOnly | ErrorCode::OutOfMemory)
        );
    if certain {
        return of_sqlite(path, error);
    }
    let text = format!("{}: the disk failed during a commit; the change may or may not be kept", path.display());
    Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error)
}

/// The error of opening the store: what will not pass by itself is a matter of configuration.
pub(crate) fn of_opening(path: &Path, error: rusqlite::Error) -> Error {
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
                .map_or_else(|| of_sqlite(path, error), |denied| of_path(path, &denied, "it cannot be opened"));
        }
    };
    Error::refused(ErrorKind::InvalidConfig, format!("{} {what}", path.display())).with_source(error)
}

/// The error of the system at a path.
pub(crate) fn of_path(path: &Path, error: &io::Error, what: &str) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Unavailable,
        _ => ErrorKind::InvalidConfig,
    };
    Error::refused(kind, format!("{}: {what}: {error}", path.display()))
}

fn apart(path: &Path) -> Error {
    let text = format!(
        "{} is in use with another -wal or -shm file than those beside it: it has another path there, or one of the three was moved or removed; nothing was changed; end those who use it, and let all come by one path",
        path.display()
    );
    Error::refused(ErrorKind::InvalidConfig, text)
}

/// Something in the file that no program of ours wrote.
pub(crate) fn damaged(what: &str) -> Error {
    Error::refused(ErrorKind::Protocol, format!("the lock file holds what it should not: {what}; nothing was changed"))
}
