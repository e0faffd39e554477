//! The users' interface of the core, in paused time, over a store that a test can slow down, stop
//! and count.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod cancellation;
mod runtimes;
mod scale;
mod sessions;
mod validity;
mod waiting;
mod watched;
