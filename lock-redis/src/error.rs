//! Classification of the client crate's errors: their kind, and whether anything was done.

use std::error::Error as _;
use std::sync::Arc;

use lock_core::{Effect, Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// The failure of a call.
pub(crate) enum CallError {
    /// From the server or the connection.
    Redis(RedisError),
    /// An error of the contract already.
    Converted(Error),
}

impl CallError {
    /// The node that a cluster redirects to, if it does.
    pub(crate) fn redirection(&self) -> Option<Redirection> {
        match self {
            CallError::Redis(error) => redirection(error),
            CallError::Converted(_) => None,
        }
    }

    /// The error of the contract, for a call to `server`.
    pub(crate) fn into_error(self, server: &str, action: &str) -> Error {
        match self {
            CallError::Converted(error) => error,
            CallError::Redis(error) => classify(server, action, error),
        }
    }
}

/// The error code, which is the first word of the server's error; empty if it has none.
fn code(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

/// `NOSCRIPT`: the server does not have the script, and nothing was run.
pub(crate) fn is_noscript(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Error codes of a server that did nothing and may do it later.
const RETRYABLE_CODES: [&str; 9] =
    ["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "READONLY", "OOM", "MISCONF", "NOREPLICAS"];
/// Phrases of an overloaded server or proxy, whatever the error code.
const OVERLOAD_PHRASES: [&str; 7] =
    ["max number of clients", "too many", "too busy", "overload", "try again", "not ready", "max clients"];

/// The code of [`RETRYABLE_CODES`] in an error. Servers before 7.0 have it after a dash, within the
/// sentence that reports the failure of a script.
fn retryable_code(error: &RedisError) -> Option<&'static str> {
    let known = |word: &str| RETRYABLE_CODES.into_iter().find(|known| *known == word);
    let embedded = || error.detail()?.split_whitespace().find_map(|word| known(word.strip_prefix('-')?));
    known(code(error)).or_else(embedded)
}

/// True if the server, or a proxy before it, reports that it is overloaded.
fn is_overloaded(error: &RedisError) -> bool {
    let Some(detail) = error.detail() else { return false };
    let detail = detail.to_ascii_lowercase();
    OVERLOAD_PHRASES.iter().any(|words| detail.contains(words))
}

/// True if the connection is of no more use: it broke, or its server may not write.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    code(error).is_empty() || matches!(retryable_code(error), Some("READONLY" | "MASTERDOWN" | "LOADING"))
}

/// True if only a cluster node answers so: it was given as a single server.
pub(crate) fn is_cluster_reply(error: &RedisError) -> bool {
    matches!(code(error), "MOVED" | "ASK" | "CROSSSLOT" | "CLUSTERDOWN")
}

/// True if the server is no cluster node.
pub(crate) fn is_cluster_disabled(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.contains("cluster support disabled"))
}

/// `TRYAGAIN`: the slot migrates and its keys are on two nodes. The script did not run.
pub(crate) fn is_tryagain(error: &RedisError) -> bool {
    code(error) == "TRYAGAIN"
}

/// True if a cluster did nothing and may do it soon: the slot migrates or has no owner, or nodes
/// redirect to each other.
pub(crate) fn is_cluster_retry(error: &RedisError) -> bool {
    matches!(code(error), "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK")
}

/// The node that a cluster redirects to.
pub(crate) enum Redirection {
    /// `MOVED`: the slot has another owner.
    Moved(String, u16),
    /// `ASK`: the slot migrates, and this one call goes to the target.
    Ask(String, u16),
}

fn redirection(error: &RedisError) -> Option<Redirection> {
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

/// True if a script did what its user may not. Redis 7.0 has no error code for it, only a sentence.
fn is_denied_in_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.starts_with("The user executing the script can't"))
}

/// The error of a call. A refusal with an error code means that nothing was done; without a code
/// the connection broke, and the outcome is unknown.
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
            // A proxy may say this after the server has done it.
            None if is_overloaded(&error) => {
                let text = format!("{server}: {action}: {NOT_NOW}; the outcome is unknown");
                return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error);
            }
            None => (ErrorKind::Protocol, "it answered what it should not"),
        },
    };
    Error::refused(kind, format!("{server}: {action}: {what}")).with_source(error)
}

/// The error of connecting. Only the error code is shown of the server's text, since old servers
/// repeat the words of a login that they do not know.
///
/// An error is final only if it is known to need an operator. A plain `ERR` can be anything, such
/// as no connection left.
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

/// The reason for which a TLS handshake failed, and on which side; `None` for another failure.
fn tls_failure(error: &RedisError) -> Option<String> {
    // The client wraps the cause in a shared pointer.
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

/// The error for a reply that no script gives.
pub(crate) fn unexpected_reply(server: &str, action: &str) -> Error {
    Error::unexpected_reply(format!("{server}: {action} brought an answer that makes no sense"))
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;

    /// The client's error for a server's error reply.
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
