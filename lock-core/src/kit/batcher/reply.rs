//! [`ReplySender`]: answers one caller, exactly once.

use std::fmt;

use tokio::sync::oneshot;

use crate::words::{Effect, Error, Result};

/// The reply; or, if there is none, what the operation may have done.
type Delivery<T> = Result<Result<T>, Effect>;

/// A channel for the reply to one operation.
pub fn reply_channel<T>() -> (ReplySender<T>, ReplyReceiver<T>) {
    let (sender, receiver) = oneshot::channel();
    (ReplySender { sender: Some(sender), effect: Effect::None }, ReplyReceiver(receiver))
}

/// Answers one caller, exactly once. If it is dropped without a reply, the caller gets an error
/// that says whether the operation may have taken effect.
pub struct ReplySender<T> {
    /// `None` once the caller has its reply.
    sender: Option<oneshot::Sender<Delivery<T>>>,
    effect: Effect,
}

impl<T> ReplySender<T> {
    /// True while the caller waits for the reply. One that has gone was cancelled, and whoever
    /// cancelled it asks again or withdraws.
    pub fn is_wanted(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| !sender.is_closed())
    }

    /// Notes that the operation is sent: without a reply its effect is unknown from here on.
    pub fn set_sent(&mut self) {
        self.effect = Effect::Unknown;
    }

    /// Sends the reply.
    pub fn send(mut self, reply: Result<T>) {
        if let Some(sender) = self.sender.take() {
            // The caller may have gone.
            let _ = sender.send(Ok(reply));
        }
    }
}

impl<T> Drop for ReplySender<T> {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.take() {
            let _ = sender.send(Err(self.effect));
        }
    }
}

/// A caller's side of the reply to its operation. Dropping it cancels an operation that is not sent
/// yet.
pub struct ReplyReceiver<T>(oneshot::Receiver<Delivery<T>>);

impl<T> ReplyReceiver<T> {
    /// Waits for the reply; `no_reply` is the error if there is none.
    ///
    /// # Errors
    ///
    /// Those of the reply, and `no_reply`.
    ///
    /// # Cancel safety
    ///
    /// An operation that is not sent yet is left out; one that is sent goes on.
    pub async fn recv(self, no_reply: impl FnOnce(Effect) -> Error) -> Result<T> {
        match self.0.await {
            Ok(Ok(reply)) => reply,
            Ok(Err(effect)) => Err(no_reply(effect)),
            Err(_) => Err(no_reply(Effect::Unknown)),
        }
    }
}

impl<T> fmt::Debug for ReplySender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplySender").field("is_wanted", &self.is_wanted()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for ReplyReceiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplyReceiver").finish_non_exhaustive()
    }
}
