//! Deliberately broken stores, at least one for each promise: the suite must find every one.
//!
//! | file | content |
//! |---|---|
//! | `flaw.rs`, `session_flaw.rs` | the flaws, each with its promise and the case that must find it |
//! | `mutant.rs` | the memory store with one flaw, and the translation of names, claims and holders |
//! | `request.rs`, `renewal.rs`, `lock_store.rs`, `token_raiser.rs` | its operations |
//! | `factory.rs` | its deployment |
//! | `sessions.rs` | a store with sessions and one flaw |
//! | `trial.rs` | one mutant before the suite |

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

mod factory;
mod flaw;
mod lock_store;
mod mutant;
mod renewal;
mod request;
mod session_flaw;
mod sessions;
mod token_raiser;
mod trial;

use std::process::ExitCode;
use std::time::Instant;

use lock_conformance::Suite;

use self::factory::Mutants;
use self::flaw::Flaw;
use self::session_flaw::SessionFlaw;
use self::sessions::SessionMutants;
use self::trial::Trial;

/// By default runs each mutant with the one case that must find it. Arguments select mutants by a
/// part of their names; with `--all` a selected mutant runs every case.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let every_case = arguments.iter().any(|argument| argument == "--all");
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_selected = |trial: &Trial| filters.is_empty() || filters.iter().any(|part| trial.name.contains(*part));
    let started = Instant::now();
    for suite in [Suite::new(Mutants(Flaw::None)), Suite::new(SessionMutants(SessionFlaw::None))] {
        let report = suite.threads(8).run().unwrap();
        if !report.is_clean() {
            println!("the store without a flaw must pass:\n{report}");
            return ExitCode::FAILURE;
        }
    }
    let trials: Vec<_> = Trial::all().filter(is_selected).collect();
    let killed = trial::run_all(&trials, every_case);
    println!("killed {killed} of {} in {:.0?}", trials.len(), started.elapsed());
    if killed == trials.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
