//! The suite on lease rows, directly on the server.

use std::process::ExitCode;

mod conformance_on;

fn main() -> ExitCode {
    lock_conformance::run(conformance_on::PostgresFactory::directly(""))
}
