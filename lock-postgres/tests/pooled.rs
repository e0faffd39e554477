//! The suite on lease rows, through a pooler in transaction mode.

use std::process::ExitCode;

mod served;

fn main() -> ExitCode {
    lock_conformance::run(served::Served::pooled(""))
}
