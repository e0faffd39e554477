//! [`Job`]: a command; [`Ending`]: how it ended.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::{Command, ExitCode};

use leasehold::Error;

use crate::failure::{Failure, status};

/// A command with its arguments, and the changes of its environment.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) command: Vec<OsString>,
    env: Vec<(&'static str, Option<OsString>)>,
}

impl Job {
    /// This command with these arguments.
    pub(crate) fn new(command: &[OsString]) -> Job {
        Job { command: command.to_vec(), env: Vec::new() }
    }

    /// With this variable.
    pub(crate) fn env(mut self, name: &'static str, value: impl AsRef<OsStr>) -> Job {
        self.env.push((name, Some(value.as_ref().to_owned())));
        self
    }

    /// Without this variable.
    pub(crate) fn env_remove(mut self, name: &'static str) -> Job {
        self.env.push((name, None));
        self
    }

    pub(crate) fn apply_env(&self, command: &mut Command) {
        for (name, value) in &self.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
    }
}

/// The end of a command.
#[derive(Debug)]
pub(crate) enum Ending {
    /// By itself, with this status.
    Exited(i32),
    /// By this signal, which was not ours.
    Killed(i32),
    /// It could not be started; the system's error number.
    NotStarted(i32, OsString),
    /// It was stopped.
    Stopped(StopReason),
}

/// The reason why a command was stopped.
#[derive(Clone, Debug)]
pub(crate) enum StopReason {
    /// The lease ends; with the failure of the last renewal, if there was one.
    NotRenewed(Option<Error>),
    /// The lease had ended when the command was to be started.
    TooLate,
    /// The lease of the `leasehold run` around this one ends.
    OuterEnds,
    /// Nobody would stop it in time any more.
    Unwatched,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            StopReason::NotRenewed(_) => "it could not be renewed in time",
            StopReason::TooLate => "its validity ended before the command was started",
            StopReason::OuterEnds => "the lease of the `leasehold run` around it has ended",
            StopReason::Unwatched => "its watchdog has ended",
        })
    }
}

impl Ending {
    /// The exit status for this end.
    pub(crate) fn code(self) -> Result<ExitCode, Failure> {
        match self {
            Ending::Exited(code) => Ok(ExitCode::from(code as u8)),
            Ending::Killed(signal) => Ok(ExitCode::from(status::SIGNALLED.saturating_add(signal as u8))),
            Ending::NotStarted(number, command) => {
                let error = std::io::Error::from_raw_os_error(number);
                let code = match error.kind() {
                    std::io::ErrorKind::NotFound => status::NOT_FOUND,
                    _ => status::NOT_EXECUTABLE,
                };
                Err(Failure::new(code, format!("{} cannot be run: {error}", command.display())))
            }
            Ending::Stopped(why) => Err(Failure::new(status::LOST, format!("the command was stopped: {why}"))),
        }
    }
}
