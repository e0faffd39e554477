//! [`classify`]: maps a failure of ZooKeeper's client to the core's errors.

use lock_core::{Effect, Error, ErrorKind};
use zookeeper_client::Error as ZkError;

/// The failure of a call.
#[derive(Clone, Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    /// The session on which it was made has ended.
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

// ZooKeeper's codes for failures that the client has no name for.
const CONNECTION_LOSS: i32 = -4;
const OPERATION_TIMEOUT: i32 = -7;
const REQUEST_TIMEOUT: i32 = -122;

/// Maps a failure of `doing` to an error. A call that is no write has no effect, however it fails.
pub(crate) fn classify(doing: &str, failure: ZkError, writes: bool) -> CallError {
    let unknown = if writes { Effect::Unknown } else { Effect::None };
    let (kind, effect, session_is_gone) = match &failure {
        // Requests in flight, and those that wait to be sent, are on a session that is no more: the
        // nodes that they make go with it.
        ZkError::SessionExpired | ZkError::ClientClosed | ZkError::SessionMoved => {
            (ErrorKind::Unavailable, unknown, true)
        }
        // The client's own task has ended.
        ZkError::UnexpectedError(_) => (ErrorKind::Unavailable, unknown, true),
        ZkError::AuthFailed => (ErrorKind::Denied, Effect::None, true),
        ZkError::NoAuth | ZkError::InvalidAcl => (ErrorKind::Denied, Effect::None, false),
        // The client has tried all servers, and none opened a session.
        ZkError::NoHosts => (ErrorKind::Unavailable, Effect::None, false),
        ZkError::Throttled | ZkError::NotReadOnly | ZkError::QuotaExceeded => {
            (ErrorKind::Unavailable, Effect::None, false)
        }
        // The server lost its connection to the others, or they did not answer in time.
        ZkError::UnexpectedErrorCode(CONNECTION_LOSS | OPERATION_TIMEOUT | REQUEST_TIMEOUT) => {
            (ErrorKind::Unavailable, unknown, false)
        }
        ZkError::BadArguments(_) => (ErrorKind::InvalidConfig, Effect::None, false),
        ZkError::Unimplemented => (ErrorKind::InvalidConfig, Effect::None, false),
        ZkError::Timeout => (ErrorKind::TimedOut, unknown, false),
        // The client reports a connection that was idle for too long as a custom error.
        ZkError::ConnectionLoss | ZkError::Custom(_) => (ErrorKind::Unavailable, unknown, false),
        _ => (ErrorKind::Protocol, unknown, false),
    };
    let text = match failure {
        ZkError::Unimplemented => format!("{doing} failed: this server cannot; ZooKeeper 3.6 or later is needed"),
        failure => format!("{doing} failed: {failure}"),
    };
    CallError { error: Error::new(kind, effect, text), session_is_gone }
}

/// The error for a call on a session that has ended here.
pub(crate) fn session_ended() -> CallError {
    let error = Error::refused(ErrorKind::Unavailable, "the session of ZooKeeper is over");
    CallError { error, session_is_gone: true }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_cannot_answer_now_is_asked_again() {
        let not_now = [ZkError::Throttled, ZkError::QuotaExceeded, ZkError::ConnectionLoss, ZkError::NotReadOnly];
        let codes = [-4, -7, -122].map(ZkError::UnexpectedErrorCode);
        for failure in not_now.into_iter().chain(codes) {
            let failed = classify("asking", failure.clone(), true);
            assert!(failed.error.is_retryable() && !failed.session_is_gone, "{failure:?}");
        }
        assert!(!classify("asking", ZkError::UnexpectedErrorCode(-1), true).error.is_retryable());
    }

    #[test]
    fn what_was_throttled_was_not_done() {
        assert!(!classify("asking", ZkError::Throttled, true).error.may_have_taken_effect());
        assert!(classify("asking", ZkError::UnexpectedErrorCode(-122), true).error.may_have_taken_effect());
        assert!(!classify("looking", ZkError::UnexpectedErrorCode(-122), false).error.may_have_taken_effect());
    }
}
