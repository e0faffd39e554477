//! [`SharedFuture`]: one future for many waiters.

use futures_util::future::{BoxFuture, Shared};

/// A future that runs once for all that await it (single flight). Any of them drives it, so that it
/// goes on when one of them is dropped.
pub(crate) type SharedFuture<T> = Shared<BoxFuture<'static, T>>;
