//! The conformance suite on PostgreSQL: on lease rows, directly and through a pooler in transaction
//! mode, and on advisory locks.

mod deployment;

use std::process::ExitCode;
use std::sync::Arc;

use self::deployment::PostgresFactory;

fn main() -> ExitCode {
    let configurations = [
        ("rows", PostgresFactory::directly("")),
        ("pooled", PostgresFactory::pooled("")),
        ("advisory", PostgresFactory::directly("&mode=advisory&key_form=sqlx")),
    ];
    lock_conformance::run_each(configurations.map(|(name, factory)| (name, Arc::new(factory) as _)))
}
