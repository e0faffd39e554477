//! Thousands of waiters, holders and tries at once, on real servers: no held lock is lost, every
//! release takes effect, every waiter is served or ends by its own limit, and the log stays short.
//!
//! `cargo test --features etcd,postgres,redis,zk --test load`. The cases run one at a time, and
//! print their figures. Where one fails, or `LEASEHOLD_LOAD_BARE=1` is set, the bare client of the
//! same server does the same beside it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod bare;
mod case;
mod fixture;
mod log_lines;
mod order;
mod scenarios;
mod work;
mod worker;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::case::Case;
use crate::fixture::{FIXTURES, Fixture};
use crate::scenarios::{SCENARIOS, Scenario};

fn main() -> ExitCode {
    if worker::is_child() {
        return work::child();
    }
    let mut arguments = Arguments::from_args();
    // Each case loads the whole machine.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for scenario in SCENARIOS {
        for fixture in FIXTURES.iter().filter(|fixture| fixture.is_served || !scenario.needs_server) {
            trials.push(Trial::test(format!("{} on {}: {}", scenario.name, fixture.name, scenario.what), || {
                run(scenario, fixture)
            }));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(scenario: &'static Scenario, fixture: &'static Fixture) -> Result<(), Failed> {
    let mut case = Case::new(fixture);
    (scenario.run)(&mut case);
    let (mut figures, complaints) = case.end();
    let is_asked_for = std::env::var_os("LEASEHOLD_LOAD_BARE").is_some_and(|wish| wish != "0");
    if fixture.is_served && (is_asked_for || !complaints.is_empty()) {
        figures += &format!("\n  the bare client: {}", bare::figures(scenario.name, fixture));
    }
    println!("\n  {figures}");
    if complaints.is_empty() { Ok(()) } else { Err(format!("{}\n{figures}", complaints.join("\n")).into()) }
}
