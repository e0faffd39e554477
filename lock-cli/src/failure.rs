//! [`Failure`]: the exit status and the message of a command that failed.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use leasehold::{Error, ErrorKind};

/// The exit statuses of this command, as `sysexits.h` has them where it has one.
pub(crate) mod status {
    /// There was nothing to break.
    pub(crate) const NOTHING_DONE: u8 = 1;
    /// The command line is not accepted.
    pub(crate) const USAGE: u8 = 64;
    /// The store cannot be reached.
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// The operating system refused something that this command needs.
    pub(crate) const OS_ERROR: u8 = 71;
    /// Output could not be written.
    pub(crate) const IO_ERROR: u8 = 74;
    /// The lock was not free in time.
    pub(crate) const NOT_FREE: u8 = 75;
    /// The lease was lost, and the command was stopped.
    pub(crate) const LOST: u8 = 76;
    /// A fence refused the token.
    pub(crate) const FENCED: u8 = 77;
    /// The configuration is wrong, or the store too weak for what was asked.
    pub(crate) const CONFIG: u8 = 78;
    /// The command was found and cannot be executed.
    pub(crate) const NOT_EXECUTABLE: u8 = 126;
    /// The command was not found.
    pub(crate) const NOT_FOUND: u8 = 127;
    /// Added to the number of the signal that ended a command.
    pub(crate) const SIGNALLED: u8 = 128;
}

/// The reason why a command ends early: an exit status, and one line for people.
#[derive(Debug)]
pub(crate) struct Failure {
    status: u8,
    message: String,
}

impl Failure {
    /// Ends with this status; without a message, silently.
    pub(crate) fn new(status: u8, message: impl Into<String>) -> Failure {
        Failure { status, message: message.into() }
    }

    /// The command line is not accepted.
    pub(crate) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(status::USAGE, message)
    }

    /// The configuration is wrong.
    pub(crate) fn config(message: impl Into<String>) -> Failure {
        Failure::new(status::CONFIG, message)
    }

    /// The operating system refused something.
    pub(crate) fn system(message: impl Into<String>) -> Failure {
        Failure::new(status::OS_ERROR, message)
    }

    /// A signal arrived before there was a command to forward it to.
    pub(crate) fn ended_by(signal: i32) -> Failure {
        Failure::new(status::SIGNALLED.saturating_add(u8::try_from(signal).unwrap_or_default()), "")
    }

    /// Output could not be written. A reader that has gone away is no failure: it has read what it
    /// wanted.
    pub(crate) fn output(error: &io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(0, ""),
            _ => Failure::new(status::IO_ERROR, format!("the output cannot be written: {error}")),
        }
    }

    /// The line for people; empty if there is none.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// The exit status.
    pub(crate) fn status(&self) -> ExitCode {
        ExitCode::from(self.status)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let status = match error.kind() {
            ErrorKind::InvalidName => status::USAGE,
            ErrorKind::Contended => status::NOT_FREE,
            ErrorKind::Lost => status::LOST,
            ErrorKind::Fenced => status::FENCED,
            ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Closed => status::UNAVAILABLE,
            // A store that refuses this user, or answers unexpectedly, is the wrong store.
            _ => status::CONFIG,
        };
        Failure::new(status, with_causes(&error))
    }
}

/// The text of an error and of its causes, without repetitions.
pub(crate) fn with_causes(error: &Error) -> String {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if !message.contains(&text) {
            let _ = write!(message, ": {text}");
        }
        cause = error.source();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_that_has_gone_away_is_no_failure() {
        assert_eq!(Failure::output(&io::ErrorKind::BrokenPipe.into()).status, 0);
        assert_eq!(Failure::output(&io::ErrorKind::StorageFull.into()).status, status::IO_ERROR);
    }

    #[test]
    fn the_cause_is_told_once() {
        let error = Error::refused(ErrorKind::Unavailable, "no answer").with_source("connection refused");
        assert_eq!(Failure::from(error).message, "no answer: connection refused");
        let error = Error::refused(ErrorKind::Unavailable, "no answer: refused").with_source("refused");
        assert_eq!(Failure::from(error).message, "no answer: refused");
    }
}
