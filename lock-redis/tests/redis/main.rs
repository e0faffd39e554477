//! What the suite does not ask: other programs, faults of real servers, logins, and what tokens do when data is lost.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod bed;
mod crowd;
mod faults;
mod interop;
mod places;
mod redlock;
mod replicas;
mod runtimes;
mod security;
mod together;
mod tokens;
mod waiting;
