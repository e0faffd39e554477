//! The store on real servers, beyond the suite.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod advisory;
mod diagnosis;
mod failover;
mod faults;
mod fence;
mod fixture;
mod idle;
mod load;
mod pooler;
mod pruning;
mod rights;
mod rows;
mod tables;
mod tls;
mod waiting;
