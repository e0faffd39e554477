//! Logs: on standard error, and off unless asked for.

use std::io;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;

/// Logs what `LEASEHOLD_LOG` names (a level, or levels per module), or else what the number of `-v` asks for.
pub(crate) fn begin(verbose: u8) -> Result<(), Failure> {
    let filter = match std::env::var("LEASEHOLD_LOG").ok().filter(|filter| !filter.is_empty()) {
        Some(filter) => filter.parse::<Targets>().map_err(|error| {
            Failure::config(format!("LEASEHOLD_LOG={filter} is not accepted: {error}; it takes a level such as debug"))
        })?,
        None => match verbose {
            0 => return Ok(()),
            1 => Targets::new().with_default(tracing_subscriber::filter::LevelFilter::DEBUG),
            _ => Targets::new().with_default(tracing_subscriber::filter::LevelFilter::TRACE),
        },
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}
