//! [`judge`]: what a failed call to a member means.

use lock_core::{Effect, Error, ErrorKind};

/// What a failed call to one member means.
#[derive(Debug)]
pub(crate) struct Judgement {
    pub(crate) error: Error,
    /// Whether another member may do better, or this one a moment later.
    pub(crate) move_on: bool,
    /// Whether the member was reached.
    pub(crate) reached: bool,
    /// The lease that the call was to use is gone.
    pub(crate) lease_is_gone: bool,
    /// The login that the call was made with has run out: with a new one it may be made again.
    pub(crate) login_is_old: bool,
}

/// What etcd means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Saying {
    /// The lease that the call was to use is gone.
    LeaseIsGone,
    LoginIsOld,
    /// It cannot do it now; whether it has done it all the same.
    NotNow(Effect),
    /// It gave up before it knew whether it was done.
    TooLate,
    /// It cannot do it until somebody makes room.
    Full,
    Denied,
}

/// What etcd says, whatever code comes with it: it has none for many of its own errors, so that they are "unknown", and a
/// proxy loses those that there are.
const SAYINGS: [(&str, Saying); 25] = [
    ("requested lease not found", Saying::LeaseIsGone),
    // A token of JWT names the revision of all users and roles, and any change of them makes it an old one.
    ("revision of auth store is old", Saying::LoginIsOld),
    ("revision in header is old", Saying::LoginIsOld),
    ("invalid auth token", Saying::LoginIsOld),
    // Turned away before it was proposed.
    ("too many requests", Saying::NotNow(Effect::None)),
    ("no leader", Saying::NotNow(Effect::None)),
    ("not leader", Saying::NotNow(Effect::None)),
    ("raft proposal dropped", Saying::NotNow(Effect::None)),
    ("unhealthy cluster", Saying::NotNow(Effect::None)),
    ("not supported for learner", Saying::NotNow(Effect::None)),
    ("learner can only serve", Saying::NotNow(Effect::None)),
    // Only what reads waits for a leader's word, and is told that there is another one.
    ("leader changed", Saying::NotNow(Effect::None)),
    ("server stopped", Saying::NotNow(Effect::Unknown)),
    ("raft: stopped", Saying::NotNow(Effect::Unknown)),
    ("not primary lessor", Saying::NotNow(Effect::Unknown)),
    ("request cancelled", Saying::NotNow(Effect::Unknown)),
    ("context canceled", Saying::NotNow(Effect::Unknown)),
    // Also "possibly due to previous leader failure", and "waiting for the applied index took too long".
    ("request timed out", Saying::TooLate),
    ("deadline exceeded", Saying::TooLate),
    ("database space exceeded", Saying::Full),
    ("permission denied", Saying::Denied),
    ("authentication failed", Saying::Denied),
    ("authentication is not enabled", Saying::Denied),
    ("user name", Saying::Denied),
    ("password", Saying::Denied),
];

// The numbers that gRPC gives its codes.
const CANCELLED: i32 = 1;
const DEADLINE_EXCEEDED: i32 = 4;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const UNAVAILABLE: i32 = 14;
const UNAUTHENTICATED: i32 = 16;

/// Judges a failure of `doing` at `member`.
pub(crate) fn judge(doing: &str, member: &str, failure: &etcd_client::Error) -> Judgement {
    let (code, causes) = match failure {
        etcd_client::Error::GRpcStatus(status) => (status.code() as i32, causes(status.message(), status)),
        etcd_client::Error::TransportError(error) => (UNAVAILABLE, causes("", error)),
        etcd_client::Error::WatchError(text)
        | etcd_client::Error::LeaseKeepAliveError(text)
        | etcd_client::Error::Internal(text) => (UNAVAILABLE, vec![text.clone()]),
        other => (UNAVAILABLE, vec![other.to_string()]),
    };
    judge_text(doing, member, code, &causes)
}

fn judge_text(doing: &str, member: &str, code: i32, causes: &[String]) -> Judgement {
    let all = causes.join(": ");
    let says = |sign: &str| all.contains(sign);
    let saying = SAYINGS.iter().find(|(sign, _)| says(sign)).map(|(_, saying)| *saying);
    let server = says("etcdserver: ") || saying.is_some();
    let (kind, effect, move_on) = match (saying, code) {
        _ if says("certificate") || says("UnknownIssuer") => (ErrorKind::Denied, Effect::None, true),
        (Some(Saying::NotNow(effect)), _) => (ErrorKind::Unavailable, effect, true),
        (Some(Saying::TooLate), _) => (ErrorKind::TimedOut, Effect::Unknown, true),
        (Some(Saying::Full), _) => (ErrorKind::Unavailable, Effect::None, false),
        (Some(Saying::Denied | Saying::LoginIsOld), _) => (ErrorKind::Denied, Effect::None, false),
        (Some(Saying::LeaseIsGone), _) => (ErrorKind::Protocol, Effect::None, false),
        (None, UNAUTHENTICATED | PERMISSION_DENIED) => (ErrorKind::Denied, Effect::None, false),
        // Never sent: nothing listens there, or it does not finish the handshake.
        (None, UNAVAILABLE) if !server && never_sent(&all) => (ErrorKind::Unavailable, Effect::None, true),
        (None, DEADLINE_EXCEEDED) => (ErrorKind::TimedOut, Effect::Unknown, true),
        (None, UNAVAILABLE) if says("timed out") => (ErrorKind::TimedOut, Effect::Unknown, true),
        (None, UNAVAILABLE | CANCELLED) => (ErrorKind::Unavailable, Effect::Unknown, true),
        (None, RESOURCE_EXHAUSTED) => (ErrorKind::Unavailable, Effect::None, false),
        (None, _) if server => (ErrorKind::Protocol, Effect::None, false),
        // A broken connection shows under several codes.
        (None, _) => (ErrorKind::Unavailable, Effect::Unknown, true),
    };
    let reached = kind != ErrorKind::Denied && (server || !never_sent(&all));
    let text = format!("{doing} failed at the etcd member {member}: {}", told(causes));
    Judgement {
        error: Error::new(kind, effect, text),
        move_on,
        reached,
        lease_is_gone: saying == Some(Saying::LeaseIsGone),
        login_is_old: saying == Some(Saying::LoginIsOld) || (saying.is_none() && code == UNAUTHENTICATED),
    }
}

/// A member did not answer in time.
pub(crate) fn no_answer(doing: &str, member: &str, limit: std::time::Duration) -> Judgement {
    let text = format!("{doing} brought no answer from the etcd member {member} within {limit:?}");
    let error = Error::new(ErrorKind::TimedOut, Effect::Unknown, text);
    Judgement { error, move_on: true, reached: true, lease_is_gone: false, login_is_old: false }
}

/// What nobody can do better.
pub(crate) fn refused(error: Error) -> Judgement {
    Judgement { error, move_on: false, reached: true, lease_is_gone: false, login_is_old: false }
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

/// The texts of an error and of its causes, without those that say nothing new; none of them holds what a request
/// carried.
fn causes(message: &str, error: &(dyn std::error::Error + 'static)) -> Vec<String> {
    let mut causes = if message.is_empty() { Vec::new() } else { vec![message.to_owned()] };
    let mut cause = if message.is_empty() { Some(error) } else { error.source() };
    while let Some(error) = cause {
        let text = error.to_string();
        if !causes.iter().any(|said| said.contains(&text)) {
            causes.push(text);
        }
        cause = error.source();
    }
    causes
}

/// What people are told: what etcd said, or the innermost cause, which is the one that somebody can change.
fn told(causes: &[String]) -> String {
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

    fn judged(code: i32, text: &str) -> Judgement {
        judge_text("asking", "m", code, &[text.to_owned()])
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
                let judged = judged(code, text);
                assert!(judged.error.is_retryable() && judged.move_on && judged.reached, "{text} under {code}");
                assert_eq!(judged.error.may_have_taken_effect(), effect == Effect::Unknown, "{text} under {code}");
            }
        }
    }

    #[test]
    fn a_login_that_has_run_out_is_told_from_one_that_is_wrong() {
        for text in ["etcdserver: revision of auth store is old", "auth: revision in header is old"] {
            assert!(judged(UNKNOWN, text).login_is_old, "{text}");
        }
        assert!(judged(UNAUTHENTICATED, "etcdserver: invalid auth token").login_is_old);
        for text in [
            "etcdserver: authentication failed, invalid user ID or password",
            "etcdserver: permission denied",
            "etcdserver: user name is empty",
        ] {
            let judged = judged(UNKNOWN, text);
            assert!(!judged.login_is_old && !judged.move_on, "{text}");
            assert_eq!(judged.error.kind(), ErrorKind::Denied, "{text}");
        }
    }

    #[test]
    fn a_lease_that_is_gone_is_known_under_any_code() {
        assert!(judged(UNKNOWN, "etcdserver: requested lease not found").lease_is_gone);
    }
}
