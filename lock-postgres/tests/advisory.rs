//! The suite on advisory locks.

use std::process::ExitCode;

mod served;

fn main() -> ExitCode {
    lock_conformance::run(served::Served::directly("&mode=advisory&key=sqlx"))
}
