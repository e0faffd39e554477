//! The command as its users meet it: as processes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod counter;
mod fence;
mod init;
mod input;
mod loss;
mod operators;
mod place;
mod run;
mod signals;
mod terminal;
