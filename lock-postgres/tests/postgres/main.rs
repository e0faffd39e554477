//! The store on real servers, beyond the suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod advisory;
mod bed;
mod failover;
mod faults;
mod fence;
mod pooler;
mod rights;
mod rows;
mod tables;
mod tls;
mod waiting;
