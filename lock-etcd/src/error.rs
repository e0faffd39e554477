//! [`classify`]: the meaning of a failed attempt.

use lock_core::{Effect, Error, ErrorKind};

/// The failure of one attempt at one member.
#[derive(Debug)]
pub(crate) struct AttemptError {
    pub(crate) error: Error,
    /// Another member may succeed, or this one a moment later.
    pub(crate) fail_over: bool,
    /// The member was reached.
    pub(crate) reached: bool,
    /// The lease that the call was to use is gone.
    pub(crate) lease_is_gone: bool,
    /// The login of the call has expired: the call may be repeated with a new one.
    pub(crate) login_expired: bool,
}

/// The errors of etcd, as far as they make a difference here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerError {
    /// The lease that the call was to use is gone.
    LeaseNotFound,
    LoginExpired,
    /// The member cannot do it now. It may have done it all the same.
    Unavailable(Effect),
    /// The member gave up before it knew the outcome.
    TimedOut,
    /// The member cannot write until an operator makes room.
    OutOfSpace,
    Denied,
}

/// Errors of etcd by a part of their text. The gRPC code is not enough: it is "unknown" for many of
/// etcd's errors, and a proxy loses the others.
const SERVER_ERRORS: [(&str, ServerError); 25] = [
    ("requested lease not found", ServerError::LeaseNotFound),
    // A JWT names the revision of all users and roles, and any change of them outdates it.
    ("revision of auth store is old", ServerError::LoginExpired),
    ("revision in header is old", ServerError::LoginExpired),
    ("invalid auth token", ServerError::LoginExpired),
    // Rejected before it was proposed.
    ("too many requests", ServerError::Unavailable(Effect::None)),
    ("no leader", ServerError::Unavailable(Effect::None)),
    ("not leader", ServerError::Unavailable(Effect::None)),
    ("raft proposal dropped", ServerError::Unavailable(Effect::None)),
    ("unhealthy cluster", ServerError::Unavailable(Effect::None)),
    ("not supported for learner", ServerError::Unavailable(Effect::None)),
    ("learner can only serve", ServerError::Unavailable(Effect::None)),
    // Only reads wait for a leader's confirmation and can be told that it changed.
    ("leader changed", ServerError::Unavailable(Effect::None)),
    ("server stopped", ServerError::Unavailable(Effect::Unknown)),
    ("raft: stopped", ServerError::Unavailable(Effect::Unknown)),
    ("not primary lessor", ServerError::Unavailable(Effect::Unknown)),
    ("request cancelled", ServerError::Unavailable(Effect::Unknown)),
    ("context canceled", ServerError::Unavailable(Effect::Unknown)),
    // Also "possibly due to previous leader failure", and "waiting for the applied index took too
    // long".
    ("request timed out", ServerError::TimedOut),
    ("deadline exceeded", ServerError::TimedOut),
    ("database space exceeded", ServerError::OutOfSpace),
    ("permission denied", ServerError::Denied),
    ("authentication failed", ServerError::Denied),
    ("authentication is not enabled", ServerError::Denied),
    ("user name", ServerError::Denied),
    ("password", ServerError::Denied),
];

// The numbers that gRPC gives its codes.
const CANCELLED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Classifies a failure of `action` at `member`.
pub(crate) fn classify(action: &str, member: &str, failure: &etcd_client::Error) -> AttemptError {
    let (code, causes) = match failure {
        etcd_client::Error::GRpcStatus(status) => (status.code() as i32, causes(status.message(), status)),
        etcd_client::Error::TransportError(error) => (UNAVAILABLE, causes("", error)),
        etcd_client::Error::WatchError(text)
        | etcd_client::Error::LeaseKeepAliveError(text)
        | etcd_client::Error::Internal(text) => (UNAVAILABLE, vec![text.clone()]),
        other => (UNAVAILABLE, vec![other.to_string()]),
    };
    classify_text(action, member, code, &causes)
}

fn classify_text(action: &str, member: &str, code: i32, causes: &[String]) -> AttemptError {
    let all = causes.join(": ");
    let contains = |sign: &str| all.contains(sign);
    let server_error = SERVER_ERRORS.iter().find(|(sign, _)| contains(sign)).map(|(_, server_error)| *server_error);
    let from_server = contains("etcdserver: ") || server_error.is_some();
    let (kind, effect, fail_over) = match (server_error, code) {
        _ if contains("certificate") || contains("UnknownIssuer") => (ErrorKind::Denied, Effect::None, true),
        (Some(ServerError::Unavailable(effect)), _) => (ErrorKind::Unavailable, effect, true),
        (Some(ServerError::TimedOut), _) => (ErrorKind::TimedOut, Effect::Unknown, true),
        (Some(ServerError::OutOfSpace), _) => (ErrorKind::Unavailable, Effect::None, false),
        (Some(ServerError::Denied | ServerError::LoginExpired), _) => (ErrorKind::Denied, Effect::None, false),
        (Some(ServerError::LeaseNotFound), _) => (ErrorKind::Protocol, Effect::None, false),
        (None, UNAUTHENTICATED | PERMISSION_DENIED) => (ErrorKind::Denied, Effect::None, false),
        // Never sent: no server listens there, or it does not finish the handshake.
        (None, UNAVAILABLE) if !from_server && never_sent(&all) => (ErrorKind::Unavailable, Effect::None, true),
        (None, DEADLINE_EXCEEDED) => (ErrorKind::TimedOut, Effect::Unknown, true),
        (None, UNAVAILABLE) if contains("timed out") => (ErrorKind::TimedOut, Effect::Unknown, true),
        (None, UNAVAILABLE | CANCELLED) => (ErrorKind::Unavailable, Effect::Unknown, true),
        (None, RESOURCE_EXHAUSTED) => (ErrorKind::Unavailable, Effect::None, false),
        (None, _) if from_server => (ErrorKind::Protocol, Effect::None, false),
        // A broken connection shows under several codes.
        (None, _) => (ErrorKind::Unavailable, Effect::Unknown, true),
    };
    let reached = kind != ErrorKind::Denied && (from_server || !never_sent(&all));
    let text = format!("{action} failed at the etcd member {member}: {}", message(causes));
    AttemptError {
        error: Error::new(kind, effect, text),
        fail_over,
        reached,
        lease_is_gone: server_error == Some(ServerError::LeaseNotFound),
        login_expired: server_error == Some(ServerError::LoginExpired)
            || (server_error.is_none() && code == UNAUTHENTICATED),
    }
}

/// No reply within the time-out `limit`.
pub(crate) fn no_answer(action: &str, member: &str, limit: std::time::Duration) -> AttemptError {
    let error = Error::no_answer(format_args!("etcd member {member}: {action}"), limit, Effect::Unknown);
    AttemptError { error, fail_over: true, reached: true, lease_is_gone: false, login_expired: false }
}

/// A failure that no other member can avoid.
pub(crate) fn permanent(error: Error) -> AttemptError {
    AttemptError { error, fail_over: false, reached: true, lease_is_gone: false, login_expired: false }
}

fn never_sent(text: &str) -> bool {
    ["tcp connect error", "dns error", "Connection refused", "tls handshake", "HTTP/2 connect"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// The texts of an error and of its causes, without repetitions. None of them contains the content
/// of a request.
fn causes(message: &str, error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut causes = if message.is_empty() { Vec::new() } else { vec![message.to_owned()] };
    let mut cause = if message.is_empty() { Some(error) } else { error.source() };
    while let Some(error) = cause {
        let text = error.to_string();
        if !causes.iter().any(|known| known.contains(&text)) {
            causes.push(text);
        }
        cause = error.source();
    }
    causes
}

/// The message for people: etcd's own text, or the innermost cause, which is the one that they can
/// remove.
fn message(causes: &[String]) -> String {
    let Some(last) = causes.last() else { return "it says nothing".to_owned() };
    match causes.iter().any(|cause| cause.contains("dns error")) {
        true => format!("its name cannot be resolved: {last}"),
        false => last.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: i32 = 2;

    fn classified(code: i32, text: &str) -> AttemptError {
        classify_text("asking", "m", code, &[text.to_owned()])
    }

    #[test]
    fn what_etcd_cannot_do_now_is_asked_again_whatever_its_code() {
        for (text, effect) in [
            ("etcdserver: too many requests", Effect::None),
            ("etcdserver: no leader", Effect::None),
            ("etcdserver: not leader", Effect::None),
            ("etcdserver: leader changed", Effect::None),
            ("etcdserver: unhealthy cluster", Effect::None),
            ("etcdserver: rpc not supported for learner", Effect::None),
            ("raft proposal dropped", Effect::None),
            ("raft: stopped", Effect::Unknown),
            ("etcdserver: server stopped", Effect::Unknown),
            ("etcdserver: request timed out", Effect::Unknown),
            ("etcdserver: request timed out, possibly due to previous leader failure", Effect::Unknown),
            ("etcdserver: request timed out, waiting for the applied index took too long", Effect::Unknown),
            ("context deadline exceeded", Effect::Unknown),
        ] {
            for code in [UNKNOWN, UNAVAILABLE, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED] {
                let judged = classified(code, text);
                assert!(judged.error.is_retryable() && judged.fail_over && judged.reached, "{text} under {code}");
                assert_eq!(judged.error.may_have_taken_effect(), effect == Effect::Unknown, "{text} under {code}");
            }
        }
    }

    #[test]
    fn a_login_that_has_run_out_is_told_from_one_that_is_wrong() {
        for text in ["etcdserver: revision of auth store is old", "auth: revision in header is old"] {
            assert!(classified(UNKNOWN, text).login_expired, "{text}");
        }
        assert!(classified(UNAUTHENTICATED, "etcdserver: invalid auth token").login_expired);
        for text in [
            "etcdserver: authentication failed, invalid user ID or password",
            "etcdserver: permission denied",
            "etcdserver: user name is empty",
        ] {
            let judged = classified(UNKNOWN, text);
            assert!(!judged.login_expired && !judged.fail_over, "{text}");
            assert_eq!(judged.error.kind(), ErrorKind::Denied, "{text}");
        }
    }

    #[test]
    fn a_lease_that_is_gone_is_known_under_any_code() {
        assert!(classified(UNKNOWN, "etcdserver: requested lease not found").lease_is_gone);
    }
}
