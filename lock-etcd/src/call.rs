//! The outcome of one call: [`CallReply`] and [`CallError`].

use lock_core::{Effect, Error};

use crate::error::AttemptError;

/// The purpose of a call. Each kind has its own permits and queue, so that none waits behind
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// Requests for locks, waiting for them, and whatever operators ask.
    Request,
    /// Releases.
    Release,
    /// Renewals. They have connections of their own.
    Heartbeat,
}

/// The reply to a call.
pub(crate) struct CallReply<T> {
    pub(crate) value: T,
    /// An earlier attempt of this call brought no reply: it may have been applied, and may still
    /// be.
    pub(crate) in_doubt: bool,
    /// The index of the member that replied.
    pub(crate) member: usize,
}

/// The failure of a call at all members that were tried.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    pub(crate) lease_is_gone: bool,
}

impl CallError {
    /// A failure that does not show that a lease is gone.
    pub(crate) fn of(error: Error) -> CallError {
        CallError { error, lease_is_gone: false }
    }
}

impl AttemptError {
    /// Makes this the failure of the whole call; `in_doubt` if an attempt may have been applied, or
    /// may still be.
    pub(crate) fn into_call_error(self, in_doubt: bool) -> CallError {
        let error = match in_doubt && !self.error.may_have_taken_effect() {
            true => Error::new(self.error.kind(), Effect::Unknown, self.error.to_string()),
            false => self.error,
        };
        CallError { error, lease_is_gone: self.lease_is_gone }
    }
}

impl From<CallError> for Error {
    fn from(failed: CallError) -> Error {
        failed.error
    }
}
