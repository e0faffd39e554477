//! [`Changes`]: how waiters learn that the file has changed.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

/// How waiters learn that the file has changed: all waiters of a store share it, and the worker tells it.
#[derive(Debug)]
pub(crate) struct Changes {
    seen: watch::Sender<u64>,
    waiters: AtomicUsize,
}

/// Somebody waits, until this is dropped.
#[derive(Debug)]
pub(crate) struct Waiter<'a>(&'a Changes);

impl Changes {
    pub(crate) fn new() -> Changes {
        Changes { seen: watch::Sender::new(0), waiters: AtomicUsize::new(0) }
    }

    /// How often the file was seen to change.
    pub(crate) fn count(&self) -> u64 {
        *self.seen.borrow()
    }

    /// The file has changed.
    pub(crate) fn tell(&self) {
        self.seen.send_modify(|count| *count += 1);
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.waiters.load(Ordering::Acquire) > 0
    }

    /// Begins to wait; call it before the worker is woken.
    pub(crate) fn waiter(&self) -> Waiter<'_> {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        Waiter(self)
    }
}

impl Waiter<'_> {
    /// Waits until the count is another than `seen`; at once if it is already.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn until_not(&self, seen: u64) {
        let mut counts = self.0.seen.subscribe();
        // The sender lives as long as this waiter's store.
        let _ = counts.wait_for(|count| *count != seen).await;
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.waiters.fetch_sub(1, Ordering::AcqRel);
    }
}
