//! [`judge`]: what a failed call to a member means.

use lock_core::{Effect, Error, ErrorKind};

/// What a failed call to one member means.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) error: Error,
    /// Whether another member may do better.
    pub(crate) move_on: bool,
    /// Whether the member was reached.
    pub(crate) reached: bool,
    /// The lease that the call was to use is gone.
    pub(crate) lease_is_gone: bool,
}

// The numbers that gRPC gives its codes.
const CANCELLED: i32 = 1;
const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Judges a failure of `doing` at `member`.
pub(crate) fn judge(doing: &str, member: &str, failure: etcd_client::Error) -> Judgement {
    let (code, text) = match &failure {
        etcd_client::Error::GRpcStatus(status) => (status.code() as i32, chain(status)),
        etcd_client::Error::TransportError(error) => (UNAVAILABLE, chain(error)),
        other => (UNAVAILABLE, chain(other)),
    };
    let server = text.contains("etcdserver: ");
    let (kind, effect, move_on) = match code {
        _ if text.contains("certificate") || text.contains("UnknownIssuer") => (ErrorKind::Denied, Effect::None, true),
        UNAUTHENTICATED | PERMISSION_DENIED => (ErrorKind::Denied, Effect::None, false),
        INVALID_ARGUMENT if text.contains("authentication") || text.contains("user name") => {
            (ErrorKind::Denied, Effect::None, false)
        }
        // Never sent: nothing listens there, or it does not finish the handshake.
        UNAVAILABLE if !server && never_sent(&text) => (ErrorKind::Unavailable, Effect::None, true),
        // Refused before it was proposed.
        UNAVAILABLE if text.contains("etcdserver: no leader") => (ErrorKind::Unavailable, Effect::None, true),
        DEADLINE_EXCEEDED => (ErrorKind::TimedOut, Effect::Unknown, true),
        UNAVAILABLE if text.contains("timed out") => (ErrorKind::TimedOut, Effect::Unknown, true),
        UNAVAILABLE | CANCELLED => (ErrorKind::Unavailable, Effect::Unknown, true),
        RESOURCE_EXHAUSTED if text.contains("too many requests") => (ErrorKind::Unavailable, Effect::None, true),
        RESOURCE_EXHAUSTED => (ErrorKind::Unavailable, Effect::None, false),
        NOT_FOUND if server => (ErrorKind::Protocol, Effect::None, false),
        _ if server => (ErrorKind::Protocol, Effect::None, false),
        // A broken connection shows under several codes.
        _ => (ErrorKind::Unavailable, Effect::Unknown, true),
    };
    let reached = kind != ErrorKind::Denied && (server || !never_sent(&text));
    let lease_is_gone = text.contains("requested lease not found");
    let error = Error::new(kind, effect, format!("{doing} failed at the etcd member {member}: {text}"));
    Judgement { error, move_on, reached, lease_is_gone }
}

/// A member did not answer in time.
pub(crate) fn no_answer(doing: &str, member: &str, limit: std::time::Duration) -> Judgement {
    let text = format!("{doing} brought no answer from the etcd member {member} within {limit:?}");
    let error = Error::new(ErrorKind::TimedOut, Effect::Unknown, text);
    Judgement { error, move_on: true, reached: true, lease_is_gone: false }
}

/// An answer that etcd should never give.
pub(crate) fn protocol(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Protocol, Effect::Unknown, text)
}

fn never_sent(text: &str) -> bool {
    ["tcp connect error", "dns error", "Connection refused", "tls handshake", "HTTP/2 connect"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// The texts of an error and of its causes; none of them holds what a request carried.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
