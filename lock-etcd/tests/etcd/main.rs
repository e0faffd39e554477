//! etcd itself, with real servers: what other programs see, and what faults do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod cluster;
mod cost;
mod crowd;
mod diagnosis;
mod fence_condition;
mod fixture;
mod go;
mod interop;
mod key_loss;
mod logins;
mod members;
mod replies;
mod restart;
mod runtimes;
mod stale_leader;
mod waiting;
