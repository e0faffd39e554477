//! [`FileLock`]: the lock of a fence's file.

use std::fs::{File, TryLockError};
use std::io::ErrorKind as Io;
use std::path::Path;

use super::file_error::{OpenError, io_error, missing};
use super::path::{check_alone, is_same, metadata};
use crate::words::Result;

/// The lock of the file, held while this handle has passes: it ends when the last pass is dropped.
pub(super) struct FileLock {
    // The locked file. It is replaced when the fence is rewritten to a new file.
    pub(super) locked: std::sync::Mutex<File>,
}

impl FileLock {
    /// Takes the lock of the fence at `path`; `None` if another handle has it and `wait` is false.
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
            // During the wait the file may have been replaced: then only the lock of the new one
            // counts.
            let found = metadata(path)?;
            if is_same(&found, &file.metadata().map_err(|error| io_error("locked", path, error))?) {
                check_alone(path, &found)?;
                return Ok(Some(FileLock { locked: std::sync::Mutex::new(file) }));
            }
        }
    }
}
