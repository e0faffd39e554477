//! [`Call`]: a call to the store, which owns what it needs.

use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::task::Poll;

use crate::words::{Effect, Error, ErrorKind, Result};

/// A call to the store that owns all it needs, so that whoever began it can be dropped and another can finish it.
pub(crate) type Call<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

pub(crate) fn boxed<T>(call: impl Future<Output = Result<T>> + Send + 'static) -> Call<T> {
    Box::pin(call)
}

/// The answer of a `call`, also of one that panics: then it is unknown what it did. So a store that panics takes no
/// engine with it, and what unwinds here is never the store.
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
