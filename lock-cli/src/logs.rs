//! Logs: on standard error, and off unless asked for.

use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;

/// Prefixes of our own log targets: those of the stores, and those of the library and this command.
const OWN_TARGETS: [&str; 2] = ["lock_", "leasehold"];

/// Logs what `LEASEHOLD_LOG` names (a level, or levels per module), or else what the number of `-v`
/// asks for. A level alone is for what we do; the clients that we use say a lot.
pub(crate) fn init(verbose: u8) -> Result<(), Failure> {
    let filter = match std::env::var("LEASEHOLD_LOG").ok().filter(|filter| !filter.is_empty()) {
        Some(filter) => parse_filter(&filter).map_err(|error| {
            Failure::config(format!("LEASEHOLD_LOG={filter} is not accepted: {error}; it takes a level such as debug"))
        })?,
        None => match verbose {
            0 => return Ok(()),
            1 => own_targets(LevelFilter::DEBUG),
            _ => own_targets(LevelFilter::TRACE),
        },
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

fn own_targets(level: LevelFilter) -> Targets {
    Targets::new().with_targets(OWN_TARGETS.map(|target| (target, level)))
}

fn parse_filter(filter: &str) -> Result<Targets, impl std::fmt::Display> {
    let mut alone = None;
    let modules: Vec<_> =
        filter.split(',').filter(|word| word.parse().map(|level| alone = Some(level)).is_err()).collect();
    modules
        .join(",")
        .parse::<Targets>()
        .map(|modules| alone.map_or_else(Targets::new, own_targets).with_targets(modules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_for_our_own_modules() {
        let debug = LevelFilter::DEBUG.into_level().unwrap();
        let enables = |filter: &str, target| parse_filter(filter).ok().unwrap().would_enable(target, &debug);
        assert!(
            enables("debug", "lock_core::observe") && enables("debug", "leasehold") && !enables("debug", "h2::proto")
        );
        assert!(enables("info,h2=debug", "h2::proto") && !enables("info,h2=debug", "lock_core::observe"));
        assert!(parse_filter("loud=very").is_err());
        assert!(!own_targets(LevelFilter::INFO).would_enable("lock_core", &debug));
    }
}
