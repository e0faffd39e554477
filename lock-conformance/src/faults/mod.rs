//! Faults between a program and its store, for any [`LockStore`](lock_core::LockStore).

mod disturbance;
mod faulty;
mod plan;

pub use self::disturbance::{Call, Disturbance, Mix};
pub use self::faulty::Faulty;
