//! Runs the scenarios of `docs/semantics.md` on every store, and holds what happens against the table there: the
//! comparison of the stores is executable, and cannot drift.
//!
//! `cargo test --features etcd,postgres,redis,sqlite,zk --test semantics`

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod bed;
mod holder;
mod scenarios;
mod table;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

use crate::bed::{BEDS, Bed};
use crate::scenarios::SCENARIOS;
use crate::table::Table;

/// What a scenario showed.
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
    /// Unknown is returned, and cleaned up.
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
        move || table.has_only(SCENARIOS.iter().map(|scenario| scenario.number), BEDS.iter().map(|bed| bed.name))
    })];
    for scenario in SCENARIOS {
        for bed in BEDS {
            let expected = table.cell(scenario.number, bed.name);
            let title = format!("{} on {}: {}", scenario.number, bed.name, scenario.what);
            let ruled_out = expected.as_deref() == Some("–");
            let trial = Trial::test(title, move || run(scenario.run, bed, expected.as_deref()));
            trials.push(trial.with_ignored_flag(ruled_out));
        }
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn run(scenario: scenarios::Run, bed: &'static Bed, expected: Option<&str>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let verdict = runtime.block_on(async {
        let made = bed.make();
        made.make_ready().await;
        scenario(made).await
    });
    let expected = expected.unwrap_or("missing");
    if verdict.letter() == expected {
        return Ok(());
    }
    Err(format!("it went {} ({verdict:?}), and the table says {expected}", verdict.letter()).into())
}
