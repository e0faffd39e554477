//! ZooKeeper itself, with real servers: what other programs see, and what faults do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod bed;
mod broken;
mod cost;
mod curator;
mod emptied;
mod layout;
mod proof;
mod replies;
mod restart;
mod servers;
mod sessions;
mod stale_follower;
