//! [`Gate`]: what may be under way at once.

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
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    pub(crate) fn of(places: usize) -> Gate {
        Gate(Arc::new(Semaphore::new(places)))
    }

    /// Does this when there is a place for it. Who gives up before has done nothing; after that it goes on to its end.
    pub(crate) async fn pass<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let (mut answers, answer) = oneshot::channel();
        let places = self.0.clone();
        runtime::background()?.spawn(async move {
            let _place = tokio::select! {
                biased;
                () = answers.closed() => return,
                place = places.acquire() => match place {
                    Ok(place) => place,
                    Err(_) => return,
                },
            };
            // Whoever asked may be gone.
            drop(answers.send(work.await));
        });
        answer.await.unwrap_or_else(|_| Err(session_is_over()))
    }

    /// Nothing passes any more. What is under way goes on.
    pub(crate) fn close(&self) {
        self.0.close();
    }
}

/// What is said to whom asks by a session that has ended here.
pub(crate) fn session_is_over() -> CallError {
    let error = Error::refused(ErrorKind::Unavailable, "the session of ZooKeeper is over");
    CallError { error, session_is_gone: true }
}
