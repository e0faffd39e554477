//! From the client's errors to ours.

use lock_core::{Effect, Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// What the server said, by its first word.
fn word(error: &RedisError) -> &str {
    error.code().unwrap_or_default()
}

/// Whether a script is not known, so that nothing was run.
pub(crate) fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Whether the connection is of no more use: it is broken, or leads to a server that may not write.
pub(crate) fn ends_connection(error: &RedisError) -> bool {
    word(error).is_empty() || matches!(word(error), "READONLY" | "MASTERDOWN" | "LOADING")
}

/// Whether the keys of a step are at two members, while their slot is on its way. Nothing was run.
pub(crate) fn is_parted(error: &RedisError) -> bool {
    word(error) == "TRYAGAIN"
}

/// Whether a cluster did nothing, and may do it soon: a slot is on its way, has nobody, or is sought in circles.
pub(crate) fn is_not_now(error: &RedisError) -> bool {
    matches!(word(error), "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK")
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

const DENIED: &str = "this user may not: it needs the lock keys, their channels and the commands that are used";

/// Whether a script met what its user may not do. Redis 7.0 has no word for that, and says it in a sentence.
fn is_denied_in_script(error: &RedisError) -> bool {
    error.detail().is_some_and(|detail| detail.starts_with("The user executing the script can't"))
}

/// The error of a step. What the server refused by a word of its own it did not do.
pub(crate) fn of_step(server: &str, doing: &str, error: RedisError) -> Error {
    let (kind, what) = match word(&error) {
        "" => {
            let text = format!("{server}: the connection broke while {doing}; the outcome is unknown");
            return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error);
        }
        _ if is_denied_in_script(&error) => (ErrorKind::Denied, DENIED),
        "NOPERM" | "NOAUTH" | "WRONGPASS" => (ErrorKind::Denied, DENIED),
        "READONLY" => (ErrorKind::Unavailable, "it is a replica now, and may not write"),
        "OOM" => (ErrorKind::Unavailable, "it has no memory left"),
        "MISCONF" => (ErrorKind::Unavailable, "it cannot write to its disk"),
        "NOREPLICAS" => (ErrorKind::Unavailable, "it has fewer replicas than it needs for writing"),
        "LOADING" | "BUSY" | "MASTERDOWN" | "TRYAGAIN" | "CLUSTERDOWN" | "MOVED" | "ASK" => {
            (ErrorKind::Unavailable, "it cannot do it now")
        }
        _ => (ErrorKind::Protocol, "it answered what it should not"),
    };
    Error::refused(kind, format!("{server}: {doing}: {what}")).with_source(error)
}

/// The error of connecting. Old servers repeat the words of a login that they do not know, so that nothing of what the
/// server said is shown but its first word.
pub(crate) fn of_connecting(server: &str, error: &RedisError) -> Error {
    let refused = error.kind() == redis::ErrorKind::AuthenticationFailed;
    let (kind, what) = match word(error) {
        "NOAUTH" | "WRONGPASS" | "NOPERM" => (ErrorKind::Denied, "it refuses this user or password".to_owned()),
        _ if refused => (ErrorKind::Denied, "it refuses this user or password".to_owned()),
        "LOADING" | "MASTERDOWN" | "BUSY" => (ErrorKind::Unavailable, "it is not ready".to_owned()),
        "ERR" => (ErrorKind::InvalidConfig, "it refuses this login or database, or is older than Redis 6".to_owned()),
        "" if error.kind() == redis::ErrorKind::RESP3NotSupported => {
            (ErrorKind::InvalidConfig, "it is older than Redis 6".to_owned())
        }
        "" if error.kind() == redis::ErrorKind::InvalidClientConfig => {
            (ErrorKind::InvalidConfig, "its certificates or address cannot be used".to_owned())
        }
        "" => (ErrorKind::Unavailable, format!("it cannot be reached: {error}")),
        other => (ErrorKind::Unavailable, format!("it answered {other}")),
    };
    Error::refused(kind, format!("{server}: {what}"))
}

pub(crate) fn timed_out(server: &str, doing: &str, limit: std::time::Duration, effect: Effect) -> Error {
    Error::new(ErrorKind::TimedOut, effect, format!("{server}: {doing} brought no answer within {limit:?}"))
}

/// An answer that none of our scripts gives.
pub(crate) fn odd(server: &str, doing: &str) -> Error {
    Error::new(ErrorKind::Protocol, Effect::Unknown, format!("{server}: {doing} brought an answer that makes no sense"))
}
