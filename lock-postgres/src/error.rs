//! Errors: how those of the client are classified.

use lock_core::{Effect, Error, ErrorKind};
use sqlx::error::DatabaseError;

/// The SQLSTATE of an error that the server reported.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(DatabaseError::code).map(|sqlstate| sqlstate.into_owned())
}

/// True if the connection is of no more use: it is broken, the server shuts down or may not write,
/// or the client refers to a prepared statement that the server has forgotten.
pub(crate) fn ends_connection(error: &sqlx::Error) -> bool {
    match sqlstate(error) {
        None => true,
        Some(sqlstate) => {
            ["57P", "08", "XX", "58", "25"].iter().any(|class| sqlstate.starts_with(class))
                || ["26000", "0A000", "42P05"].contains(&sqlstate.as_str())
        }
    }
}

/// True if the server announced that it ends the connection. It does not do so in the middle of a
/// step that goes on.
pub(crate) fn is_termination_notice(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("57P01" | "57P02" | "57P05"))
}

/// The error of a step.
pub(crate) struct StepError {
    pub(crate) error: Error,
    /// A batch may have failed because of one of its entries, and was rolled back.
    pub(crate) may_concern_one_entry: bool,
}

impl StepError {
    /// The error of all entries of a batch.
    pub(crate) fn for_all(error: Error) -> StepError {
        StepError { error, may_concern_one_entry: false }
    }

    pub(crate) fn classify(server: &str, action: &str, error: sqlx::Error) -> StepError {
        // A row that stays locked, too many entries for the time limit, an invalid value, a
        // constraint of the table.
        let of_one =
            |sqlstate: String| ["55P03", "57014"].contains(&&*sqlstate) || ["22", "23", "P0"].contains(&&sqlstate[..2]);
        let may_concern_one_entry =
            sqlstate(&error).filter(|sqlstate| sqlstate.is_ascii() && sqlstate.len() == 5).is_some_and(of_one);
        StepError { error: classify(server, action, error), may_concern_one_entry }
    }
}

impl From<StepError> for Error {
    fn from(error: StepError) -> Error {
        error.error
    }
}

/// True if the statement conflicted with another transaction and was rolled back: an immediate
/// retry may succeed.
pub(crate) fn is_serialization_conflict(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some("40001" | "40P01"))
}

/// The error of a step. A refusal of the server means that nothing was changed, except where the
/// server was shutting down.
pub(crate) fn classify(server: &str, action: &str, error: sqlx::Error) -> Error {
    let Some(sqlstate) = sqlstate(&error) else {
        let text = format!("{server}: the connection broke while {action}; the outcome is unknown");
        return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(message(&error));
    };
    let (kind, what) = match sqlstate.as_str() {
        "42501" => (ErrorKind::Denied, "this user may not: it needs the rights that docs/postgres.md lists"),
        "42P01" | "3F000" | "42703" => {
            (ErrorKind::InvalidConfig, "the tables are not there, or are others: `leasehold init URL` makes them")
        }
        "55P03" => (ErrorKind::Unavailable, "another transaction has locked the row for too long"),
        "57014" => (ErrorKind::Unavailable, "it took too long, and was undone"),
        "25006" => (ErrorKind::Unavailable, "it is a standby, or read only, and may not write"),
        "40001" | "40P01" => (ErrorKind::Unavailable, "it met other transactions again and again, and was undone"),
        "53100" => (ErrorKind::Unavailable, "its disk is full"),
        "26000" | "0A000" | "42P05" => (ErrorKind::Unavailable, "it has forgotten what was prepared"),
        sqlstate if ["57P", "08", "XX", "58"].iter().any(|class| sqlstate.starts_with(class)) => {
            let text = format!("{server}: it ended the connection while {action} ({sqlstate}); the outcome is unknown");
            return Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(message(&error));
        }
        sqlstate if sqlstate.starts_with("53") => (ErrorKind::Unavailable, "it has no room left"),
        _ => (ErrorKind::Protocol, "it answered what it should not"),
    };
    Error::refused(kind, format!("{server}: {action}: {what} ({sqlstate})")).with_source(message(&error))
}

/// The error of an attempt to connect.
pub(crate) fn classify_connect(server: &str, error: &sqlx::Error) -> Error {
    let (kind, what) = match sqlstate(error).as_deref() {
        Some(sqlstate) if sqlstate.starts_with("28") => {
            (ErrorKind::Denied, "it refuses this user, password or certificate")
        }
        Some("3D000") => (ErrorKind::InvalidConfig, "it has no such database"),
        Some("42501") => (ErrorKind::Denied, "this user may not connect to it"),
        Some("53300") => (ErrorKind::Unavailable, "it has no connection left"),
        Some(sqlstate) if sqlstate.starts_with("57P") => (ErrorKind::Unavailable, "it is not ready"),
        Some(_) => (ErrorKind::Unavailable, "it refuses the connection"),
        None if is_tls_error(error) => (ErrorKind::Denied, "its TLS, or ours, is not accepted by the other side"),
        None if matches!(error, sqlx::Error::Configuration(_)) => {
            (ErrorKind::InvalidConfig, "these settings cannot be used")
        }
        None => (ErrorKind::Unavailable, "it cannot be reached"),
    };
    Error::refused(kind, format!("{server}: {what}: {}", message(error)))
}

/// True if TLS failed between the two sides. Failures of the handshake itself are reported as
/// invalid data.
fn is_tls_error(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        _ => false,
    }
}

/// The message of the client or the server, in one line. No statement of ours holds a secret, and
/// no message about one does; details may quote values, and are left out.
fn message(error: &sqlx::Error) -> String {
    match error.as_database_error() {
        Some(reported) => reported.message().to_owned(),
        None => error.to_string(),
    }
}

/// The error of a step whose runtime has ended.
pub(crate) fn runtime_ended() -> Error {
    let text = "postgres: the runtime that asks for this has ended; the outcome is unknown";
    Error::new(ErrorKind::Unavailable, Effect::Unknown, text)
}

/// The error of a step that was sent twice and found nothing: the first time may have had its
/// effect.
pub(crate) fn in_doubt(server: &str, action: &str) -> Error {
    let text = format!("{server}: it ended the connection while {action}; the outcome is unknown");
    Error::new(ErrorKind::Unavailable, Effect::Unknown, text)
}

/// The error of a reply that none of our statements produces.
pub(crate) fn unexpected_reply(server: &str, action: &str) -> Error {
    Error::unexpected_reply(format!("{server}: {action} brought an answer that makes no sense"))
}
