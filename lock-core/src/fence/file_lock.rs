//! [`FileLock`]: the lock of a fence's file.

use std::fs::{File, TryLockError};
use std::io::ErrorKind as Io;
use std::path::Path;

use super::file_error::{OpenError, io_error, missing};
use super::path::{check_alone, is_same, metadata};
use crate::words::Result;

/// The time in which this handle has passes out: it holds the file's lock, which ends when the last pass is dropped.
pub(super) struct FileLock {
    // Another one, as soon as another file has taken its place.
    pub(super) locked: std::sync::Mutex<File>,
}

impl FileLock {
    /// Takes the lock of the fence at `path`; `None` if another has it, and this shall not wait.
    pub(super) fn begin(path: &Path, wait: bool) -> Result<Option<FileLock>> {
        loop {
            let file = File::open(path).map_err(|error| match error.kind() {
                Io::NotFound => missing(OpenError::Missing, path),
                _ => io_error("locked", path, error),
            })?;
            let taken = if wait { file.lock().map_err(TryLockError::Error) } else { file.try_lock() };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) if error.kind() == Io::Interrupted => continue,
                Err(TryLockError::Error(error)) => return Err(io_error("locked", path, error)),
            }
            // While this waited, another file may have taken its place: then its lock counts.
            let found = metadata(path)?;
            if is_same(&found, &file.metadata().map_err(|error| io_error("locked", path, error))?) {
                check_alone(path, &found)?;
                return Ok(Some(FileLock { locked: std::sync::Mutex::new(file) }));
            }
        }
    }
}
