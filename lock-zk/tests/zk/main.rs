//! Tests with real servers: the view of other programs, and faults.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod access;
mod cost;
mod crowd;
mod curator;
mod diagnosis;
mod fence_condition;
mod fixture;
mod layout;
mod node_loss;
mod realm;
mod replies;
mod restart;
mod runtimes;
mod servers;
mod sessions;
mod stale_follower;
mod uncontended;
