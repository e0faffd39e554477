//! The command as its users meet it: as processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod counter;
mod descendants;
#[cfg(feature = "etcd")]
mod etcd;
mod fence;
mod file;
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
mod start;
mod terminal;
#[cfg(all(feature = "etcd", feature = "postgres", feature = "redis", feature = "zk"))]
mod tls;
