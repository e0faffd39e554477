//! [`Trial`]: one mutant before the suite.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lock_conformance::Suite;

use super::factory::Mutants;
use super::flaw::FLAWS;
use super::session_flaw::SESSION_FLAWS;
use super::sessions::SessionMutants;

/// Number of mutants that run at the same time: they mostly wait.
const MAX_CONCURRENT: usize = 6;

/// A mutant, and the case that must find it.
pub(crate) struct Trial {
    promise: &'static str,
    pub(crate) name: String,
    case: &'static str,
    suite: Box<dyn Fn() -> Suite + Sync>,
}

impl Trial {
    /// A trial for each flaw.
    pub(crate) fn all() -> impl Iterator<Item = Trial> {
        let of_leases = FLAWS.iter().map(|(promise, flaw, case)| Trial {
            promise,
            name: format!("{flaw:?}"),
            case,
            suite: Box::new(|| Suite::new(Mutants(*flaw))),
        });
        let of_sessions = SESSION_FLAWS.iter().map(|(promise, flaw, case)| Trial {
            promise,
            name: format!("{flaw:?}"),
            case,
            suite: Box::new(|| Suite::new(SessionMutants(*flaw))),
        });
        of_leases.chain(of_sessions)
    }

    /// Runs the case that must find the mutant, or every case; returns the names of those that
    /// failed.
    fn run(&self, every_case: bool) -> Vec<&'static str> {
        let suite = (self.suite)().deadline(Duration::from_secs(20));
        let suite = if every_case { suite } else { suite.only(self.case) };
        suite.run().unwrap().failed()
    }
}

/// Runs the trials, prints a line for each, and returns the number of mutants that were found.
pub(crate) fn run_all(trials: &[Trial], every_case: bool) -> usize {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..MAX_CONCURRENT {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(trial) = trials.get(at) else { return };
                    let killers = trial.run(every_case);
                    results.lock().unwrap().push((at, killers));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(at, _)| *at);
    let mut killed = 0;
    for (at, killers) in &results {
        let Trial { promise, name, case, .. } = &trials[*at];
        let is_found = killers.contains(case);
        killed += usize::from(is_found);
        let by = if is_found { format!("killed by {}", killers.join(", ")) } else { format!("SURVIVED {case}") };
        println!("{promise} {name:<32} {by}");
    }
    killed
}
