//! [`Call`]: a call to the store that owns its data.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::words::{Effect, Error, ErrorKind, Result};

/// A call to the store that owns its data, so that its caller can be dropped and another task can
/// finish it.
pub(crate) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

pub(crate) fn boxed<T>(call: impl Future<Output = Result<T>> + Send + 'static) -> Call<T> {
    Box::pin(call)
}

/// Answer of `call`. A panic becomes an error whose effect is unknown, so that a store that panics
/// does not end the engine. Only the call unwinds, never the store.
pub(crate) async fn catch_panic<T>(doing: &str, call: impl Future<Output = Result<T>>) -> Result<T> {
    let mut call = pin!(call);
    poll_fn(|context| {
        catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(context))).unwrap_or_else(|_| {
            let text = format!("the store panicked during {doing}: it is unknown whether that took effect");
            Poll::Ready(Err(Error::new(ErrorKind::Protocol, Effect::Unknown, text)))
        })
    })
    .await
}
