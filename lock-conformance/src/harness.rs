//! [`run`] and [`run_each`]: the suite as the main function of a store's test file.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use libtest_mimic::{Arguments, Trial};

use crate::{Factory, Suite, cases};

/// Runs every case as a named trial, with the arguments that `cargo test` gives on (filters, `--list`, `--exact`,
/// `--test-threads`). Without `--test-threads` four run at the same time.
pub fn run(factory: impl Factory) -> ExitCode {
    conclude(trials("", Arc::new(factory)))
}

/// As [`run`], for a store that can be configured in several ways: the cases of each are named `way::group::sentence`.
pub fn run_each(ways: impl IntoIterator<Item = (&'static str, Arc<dyn Factory>)>) -> ExitCode {
    conclude(ways.into_iter().flat_map(|(way, factory)| trials(way, factory)).collect())
}

fn conclude(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(4);
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trials(way: &str, factory: Arc<dyn Factory>) -> Vec<Trial> {
    let named = |name: &str| if way.is_empty() { name.to_owned() } else { format!("{way}::{name}") };
    let suite = Arc::new(Suite::of(factory));
    let known = match suite.look() {
        Ok(known) => known,
        // A store that cannot be opened has failed, and was not skipped.
        Err(error) => {
            let failed = move || Err(format!("the store cannot be deployed and opened: {error}").into());
            return vec![Trial::test(named("deployment"), failed)];
        }
    };
    let trial = |case: &'static crate::case::Case| match case.ruled_out(&known) {
        Some(why) => {
            let asked = format!("the store rules this case out: {why}");
            Trial::test(named(case.name), move || Err(asked.into())).with_kind(why).with_ignored_flag(true)
        }
        None => {
            let suite = suite.clone();
            Trial::test(named(case.name), move || {
                let proof = suite.prove(case, &known, &AtomicBool::new(false));
                proof.unwrap_or_else(|| Err("it was stopped".to_owned())).map_err(Into::into)
            })
        }
    };
    cases::all().map(trial).collect()
}
