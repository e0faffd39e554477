//! Tests beyond the suite: other programs, faults of real servers, logins, and tokens after a loss
//! of data.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod batch;
mod batch_tokens;
mod batching;
mod diagnosis;
mod faults;
mod fixture;
mod interop;
mod load;
mod membership;
mod redlock;
mod replicas;
mod runtimes;
mod security;
mod tokens;
mod waiting;
