//! One call to one member of a quorum: its time-out, its jitter, its errors.

use std::future::Future;
use std::time::Duration;

use super::forming::majority;
use crate::words::{Effect, Error, ErrorKind, Result, random};

/// Makes one call to one member, within its time-out.
pub(super) async fn bounded<T>(at: usize, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(Error::no_answer(format_args!("member {}", at + 1), limit, Effect::Unknown));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

/// Jitter: a random time between these two, so that callers that split the votes do not split them
/// again and again.
pub(super) fn random_between(least: Duration, most: Duration) -> Duration {
    let part = random::bits128() as u32;
    least + (most.saturating_sub(least) / 1024) * (part % 1025)
}

/// The error of a member, with the member's name before it.
pub(super) fn explained(called: &str, error: &Error) -> Error {
    let effect = if error.may_have_taken_effect() { Effect::Unknown } else { Effect::None };
    Error::new(error.kind(), effect, format!("{called}: {error}")).with_source(error.clone())
}

/// Error of a call whose task was cancelled.
pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Unavailable, Effect::Unknown, "a call to a member of the quorum was cut off")
}

/// Error of a step that too few members answered.
pub(super) fn too_few(there: usize, of: usize, failed: &[Error], effect: Effect) -> Error {
    let kinds: Vec<_> = failed.iter().map(Error::kind).collect();
    let kind = match kinds.split_first() {
        Some((first, rest)) if rest.iter().all(|kind| kind == first) => *first,
        _ => ErrorKind::Unavailable,
    };
    let text = format!("{there} of {of} members answered, and {} must", majority(of));
    match failed.first() {
        Some(first) => {
            let each: Vec<_> = failed.iter().map(ToString::to_string).collect();
            Error::new(kind, effect, format!("{text}: {}", each.join("; "))).with_source(first.clone())
        }
        None => Error::new(kind, effect, text),
    }
}
