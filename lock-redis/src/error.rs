//! From the client's errors to ours.

use std::error::Error as _;
use std::sync::Arc;

use lock_core::{Effect, Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// What the server said, by its first word.
fn code(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

/// Whether a script is not known, so that nothing was run.
pub(crate) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Words by which a server says that it did nothing, and may do it later.
const RETRYABLE_CODES: [&str; 9] =
    ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "OOM", "MISCONF", "NOREPLICAS"];
/// The same in sentences, whatever their first word: of servers, and of what stands before them.
const OVERLOAD_PHRASES: [&str; 7] =
    ["max number of clients", "too many", "too busy", "overload", "try again", "not ready", "max clients"];

/// The word by which the server says that it did nothing and may do it later. Servers before 7.0 have it within the
/// sentence in which a script failed, after a dash.
fn retryable_code(error: &RedisError) -> Option<&'static str> {
    let known = |word: &str| RETRYABLE_CODES.into_iter().find(|known| *known == word);
    let embedded = || error.detail()?.split_whitespace().find_map(|word| known(word.strip_prefix('-')?));
    known(code(error)).or_else(embedded)
}

/// Whether the server, or what stands before it, says in a sentence that it has too much to do.
fn is_overloaded(error: &RedisError) -> bool {
    let Some(detail) = error.detail() else { return false };
    let detail = detail.to_ascii_lowercase();
    OVERLOAD_PHRASES.iter().any(|words| detail.contains(words))
}

/// Whether the connection is of no more use: it is broken, or leads to a server that may not write.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    code(error).is_empty() || matches!(retryable_code(error), Some("READONLY" | "MASTERDOWN" | "LOADING"))
}

/// Whether it is a member of a cluster that answers so, to who takes it for a server by itself.
pub(crate) fn is_cluster_reply(error: &RedisError) -> bool {
    matches!(code(error), "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN")
}

/// Whether a server answers so that is no member of a cluster.
pub(crate) fn is_cluster_disabled(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("cluster support disabled"))
}

/// Whether the keys of a step are at two members, while their slot is on its way. Nothing was run.
pub(crate) fn is_tryagain(error: &RedisError) -> bool {
    code(error) == "TRYAGAIN"
}

/// Whether a cluster did nothing, and may do it soon: a slot is on its way, has nobody, or is sought in circles.
pub(crate) fn is_cluster_retry(error: &RedisError) -> bool {
    matches!(code(error), "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK")
}

/// Where a cluster keeps what was asked for.
pub(crate) enum Redirection {
    /// There, from now on.
    Moved(String, u16),
    /// There, for this once: the slot is on its way.
    Ask(String, u16),
}

pub(crate) fn redirection(error: &RedisError) -> Option<Redirection> {
    let (host, port) = error.redirect_node().and_then(|(node, _)| node.rsplit_once(':'))?;
    let (host, port) = (host.to_owned(), port.parse().ok()?);
    match error.kind() {
        redis::ErrorKind::Server(ServerErrorKind::Moved) => Some(Redirection::Moved(host, port)),
        redis::ErrorKind::Server(ServerErrorKind::Ask) => Some(Redirection::Ask(host, port)),
        _ => None,
    }
}

const NOT_NOW: &str = "it cannot do it now";
const DENIED: &str = "this user may not: it needs the lock keys, their channels and the commands that are used";

/// Whether a script met what its user may not do. Redis 7.0 has no word for that, and says it in a sentence.
fn is_denied_in_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.starts_with("The user executing the script can't"))
}

/// The error of a step. What the server refused by a word of its own it did not do.
pub(crate) fn classify(server: &str, action: &str, error: RedisError) -> Error {
    let (kind, what) = match code(&error) {
        "" => {
            let text = format!("{server}: the connection broke while {action}; the outcome is unknown");
            return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error);
        }
        _ if is_denied_in_script(&error) => (ErrorKind::Denied, DENIED),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => (ErrorKind::Denied, DENIED),
        "MOVED" | "ASK" => (ErrorKind::Unavailable, NOT_NOW),
        _ => match retryable_code(&error) {
            Some("READONLY") => (ErrorKind::Unavailable, "it is a replica now, and may not write"),
            Some("OOM") => (ErrorKind::Unavailable, "it has no memory left"),
            Some("MISCONF") => (ErrorKind::Unavailable, "it cannot write to its disk"),
            Some("NOREPLICAS") => (ErrorKind::Unavailable, "it has fewer replicas than it needs for writing"),
            Some("TRYAGAIN") => (
                ErrorKind::Unavailable,
                "its slot is on its way to another member, which takes until all keys are there",
            ),
            Some(_) => (ErrorKind::Unavailable, NOT_NOW),
            // Whoever says this may stand before the server.
            None if is_overloaded(&error) => {
                let text = format!("{server}: {action}: {NOT_NOW}; the outcome is unknown");
                return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error);
            }
            None => (ErrorKind::Protocol, "it answered what it should not"),
        },
    };
    Error::refused(kind, format!("{server}: {action}: {what}")).with_source(error)
}

/// The error of connecting. Old servers repeat the words of a login that they do not know, so that nothing of what the
/// server said is shown but its first word.
///
/// Only what is known to need somebody's hand is final. An `ERR` can be anything, such as that the server has no
/// connection left.
pub(crate) fn classify_connect(server: &str, error: &RedisError) -> Error {
    const LOGIN: &str = "it refuses this user or password";
    let says = |words: &str| error.detail().is_some_and(|detail| detail.contains(words));
    let is_login = error.kind() == redis::ErrorKind::AuthenticationFailed;
    let (kind, what) = match code(error) {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => (ErrorKind::Denied, LOGIN.to_owned()),
        _ if is_login => (ErrorKind::Denied, LOGIN.to_owned()),
        "ERR" if says("AUTH") || says("invalid password") => (ErrorKind::Denied, LOGIN.to_owned()),
        "ERR" if says("DB index") => (ErrorKind::InvalidConfig, "it has no such database".to_owned()),
        "NOPROTO" => (ErrorKind::InvalidConfig, TOO_OLD.to_owned()),
        "ERR" if says("unknown command") => (ErrorKind::InvalidConfig, TOO_OLD.to_owned()),
        "" if error.kind() == redis::ErrorKind::RESP3NotSupported => (ErrorKind::InvalidConfig, TOO_OLD.to_owned()),
        "ERR" if says("max number of clients") => (ErrorKind::Unavailable, "it has no connection left".to_owned()),
        _ if retryable_code(error).is_some() => (ErrorKind::Unavailable, "it is not ready".to_owned()),
        "" => match tls_failure(error) {
            Some(what) => (ErrorKind::Denied, what),
            None if error.kind() == redis::ErrorKind::InvalidClientConfig => {
                (ErrorKind::InvalidConfig, "its certificates or address cannot be used".to_owned())
            }
            None => (ErrorKind::Unavailable, format!("it cannot be reached: {error}")),
        },
        other => (ErrorKind::Unavailable, format!("it answered {other}")),
    };
    Error::refused(kind, format!("{server}: {what}"))
}

const TOO_OLD: &str = "it is older than Redis 6";

/// Which side does not believe the other, if it came to no TLS between them.
fn tls_failure(error: &RedisError) -> Option<String> {
    // The client shares what it met.
    let cause = error.source()?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    let io_cause = cause.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref());
    let tls = io_cause.and_then(|error| error.downcast_ref()).or_else(|| cause.downcast_ref::<rustls::Error>())?;
    Some(match tls {
        rustls::Error::InvalidCertificate(why) => format!("its certificate is not accepted: {why:?}"),
        rustls::Error::AlertReceived(why) => format!("it does not accept this side's certificate, or its TLS: {why:?}"),
        rustls::Error::InvalidMessage(_) => "what it answers is no TLS".to_owned(),
        other => format!("it came to no TLS: {other}"),
    })
}

pub(crate) fn timed_out(server: &str, action: &str, limit: std::time::Duration, effect: Effect) -> Error {
    Error::new(ErrorKind::TimedOut, effect, format!("{server}: {action} brought no answer within {limit:?}"))
}

/// An answer that none of our scripts gives.
pub(crate) fn unexpected_reply(server: &str, action: &str) -> Error {
    Error::new(
        ErrorKind::Protocol,
        Effect::Unknown,
        format!("{server}: {action} brought an answer that makes no sense"),
    )
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    /// What the client makes of a server's words.
    fn server_error(words: &str) -> RedisError {
        redis::parse_redis_value(format!("-{words}\r\n").as_bytes()).and_then(Value::extract_error).unwrap_err()
    }

    #[test]
    fn what_a_server_cannot_do_now_is_asked_again() {
        for words in [
            "OOM command not allowed when used memory > 'maxmemory'. script: 0, on @user_script:20.",
            "ERR Error running script (call to f_0): @user_script:20: @user_script: 20: -OOM command not allowed",
            "ERR Error running script (call to f_0): @user_script:20: @user_script: 20: -READONLY You can't write",
            "LOADING Redis is loading the dataset in memory",
            "BUSY Redis is busy running a script.",
            "MASTERDOWN Link with MASTER is down",
            "CLUSTERDOWN The cluster is down",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "MISCONF Redis is configured to save RDB snapshots",
            "NOREPLICAS Not enough good replicas to write.",
        ] {
            let error = classify("redis", "asking", server_error(words));
            assert!(error.is_retryable() && !error.may_have_taken_effect(), "{words}: {error:?}");
        }
        for words in ["ERR max number of clients reached", "ERR too many requests", "PROXY overloaded, try again"] {
            let error = classify("redis", "asking", server_error(words));
            assert!(error.is_retryable() && error.may_have_taken_effect(), "{words}: {error:?}");
        }
        for words in ["ERR increment or decrement would overflow", "ERR wrong number of arguments", "WRONGTYPE x"] {
            let error = classify("redis", "asking", server_error(words));
            assert!(!error.is_retryable() && !error.may_have_taken_effect(), "{words}: {error:?}");
        }
    }

    #[test]
    fn only_what_needs_a_hand_is_final_while_connecting() {
        for (words, kind) in [
            ("ERR max number of clients reached", ErrorKind::Unavailable),
            ("ERR max number of clients + cluster connections reached", ErrorKind::Unavailable),
            ("ERR something that nobody has thought of", ErrorKind::Unavailable),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable),
            ("BUSY Redis is busy running a script.", ErrorKind::Unavailable),
            ("ERR DB index is out of range", ErrorKind::InvalidConfig),
            ("NOPROTO unsupported protocol version", ErrorKind::InvalidConfig),
            ("ERR unknown command 'HELLO', with args beginning with: '3'", ErrorKind::InvalidConfig),
            ("ERR AUTH <password> called without any password configured", ErrorKind::Denied),
            ("WRONGPASS invalid username-password pair", ErrorKind::Denied),
            ("NOAUTH HELLO must be called with the client already authenticated", ErrorKind::Denied),
        ] {
            let error = classify_connect("redis", &server_error(words));
            assert_eq!(error.kind(), kind, "{words}: {error}");
            assert!(!error.may_have_taken_effect(), "{words}");
        }
    }

    #[test]
    fn who_is_no_more_a_master_is_left() {
        for words in ["READONLY You can't write", "MASTERDOWN x", "LOADING x", "ERR @user_script: 20: -READONLY x"] {
            assert!(ends_connection(&server_error(words)), "{words}");
        }
        assert!(!ends_connection(&server_error("OOM x")));
    }
}
