//! [`ConcurrencyLimit`]: a bound on the requests in flight.

use std::sync::Arc;

use lock_core::{Result, runtime};
use tokio::sync::{Semaphore, oneshot};

use crate::error::{CallError, session_ended};

/// A bound on the requests in flight, with a fair queue before it.
///
/// The work runs on the background runtime, and keeps its permit until the server has *answered*:
/// not until the caller reads the answer, who may have given up, or whose own runtime may not be
/// driven. So the load on a server stays bounded whatever callers do, and no request is repeated on
/// this side while it still runs.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit(Arc<Semaphore>);

impl ConcurrencyLimit {
    pub(crate) fn new(max_in_flight: usize) -> ConcurrencyLimit {
        ConcurrencyLimit(Arc::new(Semaphore::new(max_in_flight)))
    }

    /// Runs this as soon as there is a permit. If the caller is dropped before that, nothing is
    /// done; after that the work runs to its end.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let (mut sender, receiver) = oneshot::channel();
        let permits = self.0.clone();
        runtime::background()?.spawn(async move {
            let _permit = tokio::select! {
                biased;
                () = sender.closed() => return,
                permit = permits.acquire() => match permit {
                    Ok(permit) => permit,
                    Err(_) => return,
                },
            };
            // The caller may be gone.
            drop(sender.send(work.await));
        });
        receiver.await.unwrap_or_else(|_| Err(session_ended()))
    }

    /// Refuses new work, and work that waits for a permit. Work in flight goes on.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}
