//! The suite on advisory locks.

use std::process::ExitCode;

mod conformance_on;

fn main() -> ExitCode {
    lock_conformance::run(conformance_on::PostgresFactory::directly("&mode=advisory&key_form=sqlx"))
}
