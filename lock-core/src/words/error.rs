//! [`Error`] of an operation; [`LossReason`] of a lost lease.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::held_by::HeldBy;
use super::holder::ParseHolderError;

/// The result of a lock operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Error of a lock operation. It answers three questions: of which [`kind`](Error::kind) it is, if
/// a retry may succeed ([`is_retryable`](Error::is_retryable)), and if the operation may have taken
/// effect ([`may_have_taken_effect`](Error::may_have_taken_effect)).
///
/// It is opaque, one pointer wide and cheap to clone (one failed batch answers many callers). The
/// cause stays in [`source`](std::error::Error::source). Its text never holds a password.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    effect: Effect,
    message: String,
    held_by: Option<HeldBy>,
    loss: Option<LossReason>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Kind of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The lock's name is not accepted.
    InvalidName,
    /// A URL, a setting or a duration is not accepted, or the store cannot be used in this way.
    InvalidConfig,
    /// The store does not promise what the caller requires.
    TooWeak,
    /// Another holder has the lock, and kept it for as long as the caller was willing to wait.
    Contended,
    /// The lease is lost: the holder may no longer believe in it.
    Lost,
    /// A fence refused the token: it has seen a later holder, or the token is of another realm.
    Fenced,
    /// The store cannot be reached, or cannot answer now.
    Unavailable,
    /// The store did not answer in time.
    TimedOut,
    /// The store refuses this user, certificate or key space.
    Denied,
    /// The `Locks` were closed.
    Closed,
    /// The store's answer is not one that it should ever give.
    Protocol,
}

/// Effect of a failed operation on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Nothing changed.
    None,
    /// Unknown: the operation may have taken effect, or still may.
    Unknown,
}

/// Reason of a loss. A lost lease stays lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// Its validity ended before a renewal was confirmed.
    Expired,
    /// The store answered that this holder does not hold it: it expired there, or an operator broke
    /// it.
    NotHeld,
    /// The session that carried it has ended.
    SessionEnded,
    /// Its guard was released or dropped.
    Released,
}

impl Error {
    /// An error of this kind. `message` is one line: what failed, and why.
    pub fn new(kind: ErrorKind, effect: Effect, message: impl Into<String>) -> Error {
        Error(Arc::new(Inner { kind, effect, message: message.into(), held_by: None, loss: None, source: None }))
    }

    /// An error of this kind whose operation certainly changed nothing.
    pub fn refused(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, Effect::None, message)
    }

    /// The error of a URL, a setting or a use that is not accepted
    /// ([`InvalidConfig`](ErrorKind::InvalidConfig)). `message` is one line: it names the value,
    /// and says what would be accepted.
    pub fn invalid_config(message: impl Into<String>) -> Error {
        Error::refused(ErrorKind::InvalidConfig, message)
    }

    /// The error of a call without an answer in time ([`TimedOut`](ErrorKind::TimedOut)): "`what`
    /// brought no answer within `within`". `what` names the server and the call; `effect` is
    /// [`Effect::Unknown`] unless the call cannot have reached the server, or only reads.
    pub fn no_answer(what: impl fmt::Display, within: Duration, effect: Effect) -> Error {
        Error::new(ErrorKind::TimedOut, effect, format!("{what} brought no answer within {within:?}"))
    }

    /// The error of an answer that a server should never give ([`Protocol`](ErrorKind::Protocol)).
    /// What was asked may have taken effect.
    pub fn unexpected_reply(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Protocol, Effect::Unknown, message)
    }

    /// Adds the cause. Its text must contain no secret, since `Debug` and error reporters show it.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.change(|inner| inner.source = Some(source.into()))
    }

    pub(crate) fn contended(message: String, held_by: Option<HeldBy>) -> Error {
        Error::refused(ErrorKind::Contended, message).change(|inner| inner.held_by = held_by)
    }

    fn change(mut self, change: impl FnOnce(&mut Inner)) -> Error {
        change(Arc::get_mut(&mut self.0).expect("BUG: an error is completed before it is shared"));
        self
    }

    /// Kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// True if a retry may succeed although nobody changes anything first.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut | ErrorKind::Contended)
    }

    /// True if the operation may have taken effect in spite of the error, or still may.
    pub fn may_have_taken_effect(&self) -> bool {
        self.0.effect == Effect::Unknown
    }

    /// The holder of the lock, for [`ErrorKind::Contended`] where the store knows it.
    pub fn held_by(&self) -> Option<&HeldBy> {
        self.0.held_by.as_ref()
    }

    /// Reason of the loss, for [`ErrorKind::Lost`].
    pub fn loss(&self) -> Option<LossReason> {
        self.0.loss
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.0.kind).field("effect", &self.0.effect).field("message", &self.0.message);
        if let Some(source) = &self.0.source {
            shown.field("source", &source.to_string());
        }
        shown.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            LossReason::Expired => "its validity ended before a renewal was confirmed",
            LossReason::NotHeld => "the store no longer has it as the holder's",
            LossReason::SessionEnded => "the session that carried it has ended",
            LossReason::Released => "it was released",
        })
    }
}

impl std::error::Error for LossReason {}

impl From<ParseHolderError> for Error {
    fn from(error: ParseHolderError) -> Error {
        Error::invalid_config(error.to_string())
    }
}

impl From<LossReason> for Error {
    fn from(reason: LossReason) -> Error {
        Error::refused(ErrorKind::Lost, format!("the lease is lost: {reason}"))
            .change(|inner| inner.loss = Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_pointer_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn an_unknown_outcome_says_so_and_keeps_its_cause() {
        let error = Error::new(ErrorKind::TimedOut, Effect::Unknown, "no answer").with_source("reset by peer");
        assert!(error.is_retryable() && error.may_have_taken_effect());
        assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "reset by peer");
    }

    #[test]
    fn a_missing_answer_names_the_call_and_the_limit_and_takes_the_effect_of_its_caller() {
        for effect in [Effect::None, Effect::Unknown] {
            let error = Error::no_answer("10.0.0.1: renewing", Duration::from_millis(1500), effect);
            assert_eq!(error.to_string(), "10.0.0.1: renewing brought no answer within 1.5s");
            assert_eq!(error.kind(), ErrorKind::TimedOut);
            assert_eq!(error.may_have_taken_effect(), effect == Effect::Unknown);
        }
    }

    #[test]
    fn an_unexpected_reply_leaves_the_effect_open_and_a_refused_setting_does_not() {
        let reply = Error::unexpected_reply("an answer without a header");
        assert_eq!((reply.kind(), reply.may_have_taken_effect()), (ErrorKind::Protocol, true));
        let setting = Error::invalid_config("wait=x is not accepted: it takes a whole number");
        assert_eq!((setting.kind(), setting.may_have_taken_effect()), (ErrorKind::InvalidConfig, false));
    }

    #[test]
    fn a_loss_becomes_an_error_that_still_knows_its_reason() {
        let error = Error::from(LossReason::NotHeld);
        assert_eq!((error.kind(), error.loss()), (ErrorKind::Lost, Some(LossReason::NotHeld)));
        assert!(!error.is_retryable());
    }
}
