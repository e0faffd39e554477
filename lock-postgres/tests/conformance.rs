//! The suite on lease rows, straight to the server.

use std::process::ExitCode;

mod served;

fn main() -> ExitCode {
    lock_conformance::run(served::Served::directly(""))
}
