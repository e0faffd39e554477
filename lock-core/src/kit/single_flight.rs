//! [`SingleFlight`]: one call for all who need its result at the same time.

use std::future::Future;
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::runtime;
use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, Result};

/// One call for all who need its result at the same time: the first starts it, the others wait for
/// its result.
///
/// The call runs in the background and belongs to no caller, so that one whose future is dropped,
/// or whose runtime stands still, delays nobody.
#[derive(Debug)]
pub struct SingleFlight<T> {
    in_flight: Arc<Mutex<Option<Pending<T>>>>,
}

/// The result of a call in flight, once it is there.
type Pending<T> = watch::Receiver<Option<Result<T>>>;

impl<T> Default for SingleFlight<T> {
    fn default() -> SingleFlight<T> {
        SingleFlight { in_flight: Arc::default() }
    }
}

impl<T: Clone + Send + Sync + 'static> SingleFlight<T> {
    /// The result of the call in flight, or of `call` if there is none. A result that was delivered
    /// is not kept: the next caller starts another call.
    ///
    /// # Errors
    ///
    /// That of the call; [`Unavailable`](ErrorKind::Unavailable) if its task was cancelled.
    ///
    /// # Cancel safety
    ///
    /// The call goes on.
    pub async fn run<F>(&self, call: impl FnOnce() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let mut result = self.join(call)?;
        let delivered = result.wait_for(Option::is_some).await.ok().and_then(|result| result.clone());
        delivered.unwrap_or_else(|| {
            let text = "a call in the background was cancelled; its outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    fn join<F>(&self, call: impl FnOnce() -> F) -> Result<Pending<T>>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let background = runtime::for_engine()?;
        let mut in_flight = locked(&self.in_flight);
        // Without a sender its task was cancelled.
        if let Some(pending) = in_flight.as_ref().filter(|result| result.has_changed().is_ok()) {
            return Ok(pending.clone());
        }
        let (sender, result) = watch::channel(None);
        let (call, slot) = (call(), self.in_flight.clone());
        background.spawn(async move {
            let outcome = call.await;
            // Before it is delivered: whoever comes later starts another call, and nothing of this
            // one is kept.
            drop(locked(&slot).take());
            sender.send_replace(Some(outcome));
        });
        *in_flight = Some(result.clone());
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn callers_at_the_same_time_share_one_call_and_a_later_one_starts_another() {
        let (flight, calls) = (Arc::new(SingleFlight::default()), Arc::new(AtomicUsize::new(0)));
        let call = || {
            let calls = calls.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Ok(calls.fetch_add(1, Ordering::SeqCst) + 1)
            }
        };
        let both = tokio::join!(flight.run(call), flight.run(call));
        assert_eq!((both.0.expect("an answer"), both.1.expect("an answer")), (1, 1));
        assert_eq!(flight.run(call).await.expect("an answer"), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_when_its_first_caller_is_gone() {
        let flight = SingleFlight::default();
        let call = || async {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            Ok("answer")
        };
        let first = tokio::time::timeout(std::time::Duration::from_secs(1), flight.run(call)).await;
        assert!(first.is_err());
        let second = flight.run(|| async { Ok("another call") }).await;
        assert_eq!(second.expect("an answer"), "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_of_a_call_is_kept_when_its_callers_have_the_result() {
        let flight = SingleFlight::default();
        let result = flight.run(|| async { Ok(Arc::new(())) }).await.expect("an answer");
        assert_eq!(Arc::strong_count(&result), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_panics_is_an_error_and_the_next_caller_starts_another() {
        let flight = SingleFlight::<u8>::default();
        let broken = flight.run(|| async { panic!("BUG: on purpose") }).await;
        assert!(broken.expect_err("it panicked").may_have_taken_effect());
        assert_eq!(flight.run(|| async { Ok(1) }).await.expect("an answer"), 1);
    }
}
