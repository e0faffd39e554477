//! The command as its users meet it: as processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod counter;
#[cfg(feature = "etcd")]
mod etcd;
mod fence;
mod init;
mod input;
mod loss;
mod operators;
mod place;
#[cfg(feature = "redis")]
mod redis;
mod run;
#[cfg(any(feature = "etcd", feature = "redis"))]
mod servers;
mod signals;
mod terminal;
