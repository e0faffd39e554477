//! Deliberately broken stores, at least one for each promise: the suite must find every one of them.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

mod flaw;
mod sessions;
mod store;

use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lock_conformance::{Deployment, Factory, Failure, Suite, async_trait};
use lock_core::LockStore;

use self::flaw::{FLAWS, Flaw};
use self::sessions::{SESSION_FLAWS, SessionFlaw, SessionMutants};
use self::store::Mutant;

struct Mutants(Flaw);
struct Data(Mutant);

#[async_trait]
impl Factory for Mutants {
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
        Ok(Arc::new(Data(Mutant::new(self.0))))
    }

    fn ttl(&self) -> Duration {
        Duration::from_millis(300)
    }
}

#[async_trait]
impl Deployment for Data {
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
        Ok(Arc::new(self.0.open()))
    }
}

/// How many mutants are tried at the same time: they mostly wait.
const AT_ONCE: usize = 6;

/// Without arguments each mutant meets the one case that is there for it. Arguments choose mutants by a part of their
/// names; `--all` lets a chosen mutant meet every case.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = arguments.iter().any(|argument| argument == "--all");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let chosen = |mutant: &Tried| filters.is_empty() || filters.iter().any(|part| mutant.name.contains(*part));
    let started = Instant::now();

    for suite in [Suite::new(Mutants(Flaw::None)), Suite::new(SessionMutants(SessionFlaw::None))] {
        let unflawed = suite.threads(8).run().unwrap();
        if !unflawed.is_clean() {
            println!("the store without a flaw must pass:\n{unflawed}");
            return ExitCode::FAILURE;
        }
    }
    let mutants: Vec<_> = Tried::all().filter(chosen).collect();
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = mutants.get(at) else { return };
                    let suite = (mutant.suite)().deadline(Duration::from_secs(20));
                    let killers = if all { suite } else { suite.only(mutant.case) }.run().unwrap().failed();
                    found.lock().unwrap().push((at, killers));
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(at, _)| *at);
    let mut killed = 0;
    for (at, killers) in &found {
        let Tried { promise, name, case, .. } = &mutants[*at];
        let noticed = killers.contains(case);
        killed += usize::from(noticed);
        let by = if noticed { format!("killed by {}", killers.join(", ")) } else { format!("SURVIVED {case}") };
        println!("{promise} {name:<32} {by}");
    }
    println!("killed {killed} of {} in {:.0?}", found.len(), started.elapsed());
    if killed == found.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A mutant, and the case that is there for it.
struct Tried {
    promise: &'static str,
    name: String,
    case: &'static str,
    suite: Box<dyn Fn() -> Suite + Sync>,
}

impl Tried {
    fn all() -> impl Iterator<Item = Tried> {
        let of_leases = FLAWS.iter().map(|(promise, flaw, case)| Tried {
            promise,
            name: format!("{flaw:?}"),
            case,
            suite: Box::new(|| Suite::new(Mutants(*flaw))),
        });
        let of_sessions = SESSION_FLAWS.iter().map(|(promise, flaw, case)| Tried {
            promise,
            name: format!("{flaw:?}"),
            case,
            suite: Box::new(|| Suite::new(SessionMutants(*flaw))),
        });
        of_leases.chain(of_sessions)
    }
}
