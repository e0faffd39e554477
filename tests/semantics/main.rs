//! Runs the scenarios of `docs/semantics.md` on every store, and compares the outcomes with the
//! table there: the comparison of the stores is executable, and cannot drift.
//!
//! `cargo test --features etcd,postgres,redis,sqlite,zk --test semantics`

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod fixture;
mod holder;
mod scenarios;
mod table;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::fixture::{FIXTURES, Fixture};
use crate::scenarios::SCENARIOS;
use crate::table::Table;

/// The outcome of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// No double hold.
    Safe,
    /// A double hold; the write of the earlier holder is refused by the fence.
    Fenced,
    /// A double hold; the write of the earlier holder is accepted.
    Broken,
    /// Refused, or reported lost.
    Refused,
    /// The unknown outcome is returned, and cleaned up.
    Unknown,
}

impl Verdict {
    fn letter(self) -> &'static str {
        match self {
            Verdict::Safe => "S",
            Verdict::Fenced => "F",
            Verdict::Broken => "**X**",
            Verdict::Refused => "R",
            Verdict::Unknown => "U",
        }
    }
}

fn main() -> ExitCode {
    if holder::is_child() {
        return holder::child();
    }
    let table = Table::read();
    let mut trials = vec![Trial::test("the table has exactly the scenarios and stores that are run", {
        let table = table.clone();
        move || {
            table
                .has_only(SCENARIOS.iter().map(|scenario| scenario.number), FIXTURES.iter().map(|fixture| fixture.name))
        }
    })];
    for scenario in SCENARIOS {
        for fixture in FIXTURES {
            let expected = table.cell(scenario.number, fixture.name);
            let title = format!("{} on {}: {}", scenario.number, fixture.name, scenario.what);
            let ruled_out = expected.as_deref() == Some("–");
            let trial = Trial::test(title, move || run(scenario.run, fixture, expected.as_deref()));
            trials.push(trial.with_ignored_flag(ruled_out));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(scenario: scenarios::Run, fixture: &'static Fixture, expected: Option<&str>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let verdict = runtime.block_on(async {
        let deployment = fixture.make();
        deployment.init().await;
        scenario(deployment).await
    });
    let expected = expected.unwrap_or("missing");
    if verdict.letter() == expected {
        return Ok(());
    }
    Err(format!("it went {} ({verdict:?}), and the table says {expected}", verdict.letter()).into())
}
