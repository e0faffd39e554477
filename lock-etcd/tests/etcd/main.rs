//! etcd itself, with real servers: what other programs see, and what faults do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod bed;
mod broken;
mod cluster;
mod cost;
mod crowd;
mod go;
mod interop;
mod logins;
mod members;
mod proof;
mod replies;
mod restart;
mod runtimes;
mod stale_leader;
mod waiting;
