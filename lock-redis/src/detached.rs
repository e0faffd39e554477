//! [`run_detached`]: work that ends whether or not its caller is polled.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::task::JoinHandle;

/// Runs `work` in a task of its own, so that it ends even if the caller is dropped or not polled.
/// Work that has not raised its flag when the caller is dropped is aborted.
///
/// # Errors
///
/// Those of `work`; unavailable with an unknown outcome if the runtime ends.
pub(crate) async fn run_detached<T: Send + 'static>(
    action: &'static str,
    started: StartFlag,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut task = AbortIfNotStarted { task: tokio::spawn(work), started };
    (&mut task.task).await.unwrap_or_else(|_| {
        let text = format!("redis: the runtime ended while {action}; the outcome is unknown");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    })
}

/// Set when detached work begins with what must not be aborted.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartFlag(Arc<AtomicBool>);

impl StartFlag {
    /// A flag for work that is never aborted.
    pub(crate) fn already_set() -> StartFlag {
        StartFlag(Arc::new(AtomicBool::new(true)))
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct AbortIfNotStarted<T> {
    task: JoinHandle<T>,
    started: StartFlag,
}

impl<T> Drop for AbortIfNotStarted<T> {
    fn drop(&mut self) {
        if !self.started.is_set() {
            self.task.abort();
        }
    }
}
