//! [`judge`]: what a failed call to ZooKeeper means.

use lock_core::{Effect, Error, ErrorKind};
use zookeeper_client::Error as Failure;

/// How a call failed.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    /// The session by which it was made has ended.
    pub(crate) session_is_gone: bool,
}

impl From<CallError> for Error {
    fn from(failed: CallError) -> Error {
        failed.error
    }
}

impl From<Error> for CallError {
    fn from(error: Error) -> CallError {
        CallError { error, session_is_gone: false }
    }
}

/// Judges a failure of `doing`. What certainly changes nothing, as a reading does, has no effect however it fails.
pub(crate) fn judge(doing: &str, failure: Failure, writes: bool) -> CallError {
    let unknown = if writes { Effect::Unknown } else { Effect::None };
    let (kind, effect, session_is_gone) = match &failure {
        // Whatever was on its way, or still waits to be sent, is on a session that is no more: what it makes goes with it.
        Failure::SessionExpired | Failure::ClientClosed | Failure::SessionMoved => {
            (ErrorKind::Unavailable, unknown, true)
        }
        // The task that serves the session has ended with its runtime.
        Failure::UnexpectedError(_) => (ErrorKind::Unavailable, unknown, true),
        Failure::AuthFailed => (ErrorKind::Denied, Effect::None, true),
        Failure::NoAuth | Failure::InvalidAcl => (ErrorKind::Denied, Effect::None, false),
        // The client has been through all servers, and none opened a session.
        Failure::NoHosts => (ErrorKind::Unavailable, Effect::None, false),
        Failure::Throttled | Failure::NotReadOnly | Failure::QuotaExceeded => {
            (ErrorKind::Unavailable, Effect::None, false)
        }
        Failure::BadArguments(_) => (ErrorKind::InvalidConfig, Effect::None, false),
        Failure::Unimplemented => (ErrorKind::InvalidConfig, Effect::None, false),
        Failure::Timeout => (ErrorKind::TimedOut, unknown, false),
        // A connection that was idle for too long shows as a custom error.
        Failure::ConnectionLoss | Failure::Custom(_) => (ErrorKind::Unavailable, unknown, false),
        _ => (ErrorKind::Protocol, unknown, false),
    };
    let text = match failure {
        Failure::Unimplemented => format!("{doing} failed: this server cannot; ZooKeeper 3.6 or later is needed"),
        failure => format!("{doing} failed: {failure}"),
    };
    CallError { error: Error::new(kind, effect, text), session_is_gone }
}

/// An answer that ZooKeeper should never give.
pub(crate) fn protocol(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, Effect::Unknown, text)
}
