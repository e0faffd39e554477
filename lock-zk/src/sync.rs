//! State that tasks share: mutexes without poison, and futures with many waiters.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::future::{BoxFuture, Shared};

/// A future that runs once for all that await it (single flight). Any of them drives it, so that it
/// goes on when one of them is dropped.
pub(crate) type SharedFuture<T> = Shared<BoxFuture<'static, T>>;

/// Locks a mutex, also one that a panic has poisoned.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
