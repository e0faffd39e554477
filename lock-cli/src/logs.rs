//! Logs: on standard error, and off unless asked for.

use std::io;

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::failure::Failure;

/// What the names of our own modules begin with: those of the stores, and those of the library and this command.
const OURS: [&str; 2] = ["lock_", "leasehold"];

/// Logs what `LEASEHOLD_LOG` names (a level, or levels per module), or else what the number of `-v` asks for. A level
/// alone is for what we do; the clients that we use say a lot.
pub(crate) fn begin(verbose: u8) -> Result<(), Failure> {
    let filter = match std::env::var("LEASEHOLD_LOG").ok().filter(|filter| !filter.is_empty()) {
        Some(filter) => of_words(&filter).map_err(|error| {
            Failure::config(format!("LEASEHOLD_LOG={filter} is not accepted: {error}; it takes a level such as debug"))
        })?,
        None => match verbose {
            0 => return Ok(()),
            1 => ours(LevelFilter::DEBUG),
            _ => ours(LevelFilter::TRACE),
        },
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(lines).with(filter).init();
    Ok(())
}

fn ours(level: LevelFilter) -> Targets {
    Targets::new().with_targets(OURS.map(|target| (target, level)))
}

fn of_words(filter: &str) -> Result<Targets, impl std::fmt::Display> {
    let mut alone = None;
    let modules: Vec<_> =
        filter.split(',').filter(|word| word.parse().map(|level| alone = Some(level)).is_err()).collect();
    modules.join(",").parse::<Targets>().map(|modules| alone.map_or_else(Targets::new, ours).with_targets(modules))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_alone_is_for_our_own_modules() {
        let debug = LevelFilter::DEBUG.into_level().unwrap();
        let enables = |filter: &str, target| of_words(filter).ok().unwrap().would_enable(target, &debug);
        assert!(
            enables("debug", "lock_core::observe") && enables("debug", "leasehold") && !enables("debug", "h2::proto")
        );
        assert!(enables("info,h2=debug", "h2::proto") && !enables("info,h2=debug", "lock_core::observe"));
        assert!(of_words("loud=very").is_err());
        assert!(!ours(LevelFilter::INFO).would_enable("lock_core", &debug));
    }
}
