//! [`Report`]: the results of a run.

use std::fmt;
use std::time::Duration;

/// The results of a run, case by case.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(crate) outcomes: Vec<Outcome>,
}

/// The result of one case.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The case, as `group::sentence`.
    pub case: &'static str,
    /// Its verdict.
    pub verdict: Verdict,
    /// Its duration.
    pub took: Duration,
}

/// The verdict of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The store keeps the promise.
    Passed,
    /// It does not; the text says why.
    Failed(String),
    /// The guarantees of the store, or the abilities of its deployments, rule the case out; the
    /// text says which.
    Ignored(String),
}

impl Report {
    /// The outcome of every case that ran or was ignored.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The names of the cases that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |outcome: &&Outcome| matches!(outcome.verdict, Verdict::Failed(_));
        self.outcomes.iter().filter(failed).map(|outcome| outcome.case).collect()
    }

    /// True if at least one case passed and none failed.
    pub fn is_clean(&self) -> bool {
        self.failed().is_empty() && self.outcomes.iter().any(|outcome| outcome.verdict == Verdict::Passed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for outcome in &self.outcomes {
            match &outcome.verdict {
                Verdict::Passed => writeln!(f, "passed   {} ({:.1?})", outcome.case, outcome.took)?,
                Verdict::Failed(why) => writeln!(f, "FAILED   {} ({:.1?}): {why}", outcome.case, outcome.took)?,
                Verdict::Ignored(why) => writeln!(f, "ignored  {}: {why}", outcome.case)?,
            }
        }
        Ok(())
    }
}
