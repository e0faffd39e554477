//! Errors of a fence in a file.

use std::io::{self, ErrorKind as Io};
use std::path::Path;

use crate::words::{Effect, Error, ErrorKind};

/// Reason why a file was not opened.
pub(super) enum OpenError {
    Missing,
    Other(Error),
}

impl From<Error> for OpenError {
    fn from(error: Error) -> OpenError {
        OpenError::Other(error)
    }
}

impl From<OpenError> for Error {
    fn from(error: OpenError) -> Error {
        match error {
            OpenError::Missing => Error::invalid_config("the file of the fence is missing"),
            OpenError::Other(error) => error,
        }
    }
}

pub(super) fn missing(error: OpenError, path: &Path) -> Error {
    match error {
        OpenError::Missing => Error::invalid_config(format!(
            "the fence in {} was removed while it was in use: nothing is admitted until it is opened again",
            path.display()
        )),
        OpenError::Other(error) => error,
    }
}

pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "the fence was not entered: what did so ended before its time")
}

pub(super) fn went_back(path: &Path) -> Error {
    Error::invalid_config(format!(
        "the fence in {} knows less than before: an older copy was put in its place; nothing is admitted, since a fence \
         that forgets admits old holders",
        path.display()
    ))
}

pub(super) fn io_error(what: &str, path: &Path, error: io::Error) -> Error {
    let kind = match error.kind() {
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::IsADirectory | Io::NotADirectory | Io::InvalidInput | Io::InvalidFilename => ErrorKind::InvalidConfig,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, Effect::Unknown, format!("the fence in {} cannot be {what}: {error}", path.display()))
        .with_source(error)
}
