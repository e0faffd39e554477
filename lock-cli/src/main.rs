//! `leasehold`: holds a distributed lock around a command, and shows and breaks locks.
//!
//! | file | content |
//! |---|---|
//! | `cli.rs` | the command line |
//! | `commands/` | one file for each command |
//! | `supervise/` | running a command under a lease: supervisor and watchdog |
//! | `store.rs` | the URL of the store, and lock names |
//! | `waiting_line.rs` | the line that shows the holder during a wait |
//! | `output.rs`, `failure.rs` | results, notices, exit statuses |
//! | `logs.rs` | logging |

mod cli;
mod commands;
mod failure;
mod logs;
mod output;
mod store;
mod supervise;
mod waiting_line;

use std::process::ExitCode;

use crate::failure::Failure;

/// Number of file descriptors needed before any store is open. With fewer the runtime would panic.
const MIN_FREE_DESCRIPTORS: usize = 16;

fn main() -> ExitCode {
    if let Err(failure) = check_descriptors() {
        return output::report(&failure);
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::report(&Failure::system(format!("no runtime: {error}"))),
    };
    let result = if let Some(order) = supervise::WatchdogOrder::from_args(std::env::args_os()) {
        runtime.block_on(supervise::watch(order))
    } else {
        match cli::parse() {
            Ok(cli) => runtime.block_on(commands::run(cli)),
            Err(result) => result,
        }
    };
    // A thread of a store may hang in an abandoned call: it is not awaited.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => output::report(&failure),
    }
}

fn check_descriptors() -> Result<(), Failure> {
    let opened: Result<Vec<_>, _> = (0..MIN_FREE_DESCRIPTORS).map(|_| std::fs::File::open("/dev/null")).collect();
    opened.map(drop).map_err(|error| {
        Failure::system(format!(
            "{MIN_FREE_DESCRIPTORS} more files cannot be opened: {error}; `ulimit -n` shows how many may be"
        ))
    })
}
