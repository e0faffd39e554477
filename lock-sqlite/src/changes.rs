//! [`Changes`]: notifies waiters that the file has changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// Notifies waiters that the file has changed. All waiters of a store share it; the worker sends
/// the notifications.
#[derive(Debug)]
pub(crate) struct Changes {
    version: watch::Sender<u64>,
    subscribers: AtomicUsize,
}

/// A waiter's subscription, until it is dropped.
#[derive(Debug)]
pub(crate) struct Subscription<'a>(&'a Changes);

impl Changes {
    pub(crate) fn new() -> Changes {
        Changes { version: watch::Sender::new(0), subscribers: AtomicUsize::new(0) }
    }

    /// Number of changes that were seen.
    pub(crate) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Notifies that the file has changed.
    pub(crate) fn notify(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    pub(crate) fn has_subscribers(&self) -> bool {
        self.subscribers.load(Ordering::Acquire) > 0
    }

    /// Subscribes; call it before the worker is woken.
    pub(crate) fn subscribe(&self) -> Subscription<'_> {
        self.subscribers.fetch_add(1, Ordering::AcqRel);
        Subscription(self)
    }
}

impl Subscription<'_> {
    /// Waits until the version differs from `version`; returns at once if it does already.
    ///
    /// # Cancel safety
    ///
    /// No change is missed when the future is dropped.
    pub(crate) async fn changed_since(&self, version: u64) {
        let mut versions = self.0.version.subscribe();
        // It cannot fail: the sender lives as long as the store.
        let _ = versions.wait_for(|current| *current != version).await;
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.0.subscribers.fetch_sub(1, Ordering::AcqRel);
    }
}
