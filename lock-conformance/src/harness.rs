//! [`run`] and [`run_each`]: the main function of a store's test file.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use libtest_mimic::{Arguments, Trial};

use crate::case::Case;
use crate::cases;
use crate::factory::Factory;
use crate::suite::Suite;

/// Runs every case as a named trial. It takes the arguments that `cargo test` passes (filters,
/// `--list`, `--exact`, `--test-threads`). Without `--test-threads` four cases run at the same
/// time.
pub fn run(factory: impl Factory) -> ExitCode {
    run_trials(trials("", Arc::new(factory)))
}

/// Like [`run`], for a store with several configurations. The cases of each are named
/// `configuration::group::sentence`.
pub fn run_each(configurations: impl IntoIterator<Item = (&'static str, Arc<dyn Factory>)>) -> ExitCode {
    run_trials(configurations.into_iter().flat_map(|(name, factory)| trials(name, factory)).collect())
}

fn run_trials(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(configuration: &str, factory: Arc<dyn Factory>) -> Vec<Trial> {
    let named = |name: &str| match configuration {
        "" => name.to_owned(),
        _ => format!("{configuration}::{name}"),
    };
    let suite = Arc::new(Suite::from_factory(factory));
    let capabilities = match suite.probe() {
        Ok(capabilities) => capabilities,
        // A store that cannot be opened fails the run: its cases are not skipped.
        Err(error) => {
            let failed = move || Err(format!("the store cannot be deployed and opened: {error}").into());
            return vec![Trial::test(named("deployment"), failed)];
        }
    };
    let trial = |case: &'static Case| match case.skip_reason(&capabilities) {
        Some(why) => {
            let message = format!("the store rules this case out: {why}");
            Trial::test(named(case.name), move || Err(message.into())).with_kind(why).with_ignored_flag(true)
        }
        None => {
            let suite = suite.clone();
            Trial::test(named(case.name), move || {
                let result = suite.run_case(case, &capabilities, &AtomicBool::new(false));
                result.unwrap_or_else(|| Err("it was stopped".to_owned())).map_err(Into::into)
            })
        }
    };
    cases::all().map(trial).collect()
}
