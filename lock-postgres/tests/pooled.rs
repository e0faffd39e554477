//! The suite on lease rows, through a pooler in transaction mode.

use std::process::ExitCode;

mod conformance_on;

fn main() -> ExitCode {
    lock_conformance::run(conformance_on::PostgresFactory::pooled(""))
}
