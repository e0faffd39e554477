//! What can go wrong between a program and its store, for any [`LockStore`](lock_core::LockStore).

mod faulty;
mod step;

pub use self::faulty::Faulty;
pub use self::step::{Mix, Op, Step};
