//! etcd itself, with real servers: what other programs see, and what faults do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod bed;
mod broken;
mod cost;
mod go;
mod interop;
mod members;
mod proof;
mod replies;
mod restart;
mod stale_leader;
mod waiting;
