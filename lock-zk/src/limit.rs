//! [`ConcurrencyLimit`]: what may be under way at once.

use std::sync::Arc;

use lock_core::{Error, ErrorKind, Result, runtime};
use tokio::sync::{Semaphore, oneshot};

use crate::error::CallError;

/// What may be under way at once; who comes then is let through in the order of their coming.
///
/// What passes runs on the background runtime, and holds its place until it has been *answered*: not until its caller,
/// who may have given up, or whose own runtime is not driven, looks at the answer. So what is under way at a server
/// stays bounded whatever callers do, and nothing is asked again at its own side while it still runs.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit(Arc<Semaphore>);

impl ConcurrencyLimit {
    pub(crate) fn new(max_in_flight: usize) -> ConcurrencyLimit {
        ConcurrencyLimit(Arc::new(Semaphore::new(max_in_flight)))
    }

    /// Does this when there is a place for it. Who gives up before has done nothing; after that it goes on to its end.
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
            // Whoever asked may be gone.
            drop(sender.send(work.await));
        });
        receiver.await.unwrap_or_else(|_| Err(session_ended()))
    }

    /// Nothing passes any more. What is under way goes on.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// What is said to whom asks by a session that has ended here.
pub(crate) fn session_ended() -> CallError {
    let error = Error::refused(ErrorKind::Unavailable, "the session of ZooKeeper is over");
    CallError { error, session_is_gone: true }
}
