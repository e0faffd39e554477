//! `leasehold`: holds a distributed lock around a command, and shows and breaks locks.

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

/// As many file descriptors as are needed before any store is open. With fewer the runtime would panic.
const DESCRIPTORS: usize = 16;

fn main() -> ExitCode {
    if let Err(failure) = enough_descriptors() {
        return failure.report();
    }
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::system(format!("no runtime: {error}")).report(),
    };
    let ended = if let Some(order) = supervise::WatchdogOrder::from_args(std::env::args_os()) {
        runtime.block_on(supervise::watch(order))
    } else {
        match cli::parse() {
            Ok(cli) => runtime.block_on(commands::run(cli)),
            Err(ended) => ended,
        }
    };
    // A store's thread may hang in a call that was given up: it is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn enough_descriptors() -> Result<(), Failure> {
    let opened: Result<Vec<_>, _> = (0..DESCRIPTORS).map(|_| std::fs::File::open("/dev/null")).collect();
    opened.map(drop).map_err(|error| {
        Failure::system(format!(
            "{DESCRIPTORS} more files cannot be opened: {error}; `ulimit -n` shows how many may be"
        ))
    })
}
