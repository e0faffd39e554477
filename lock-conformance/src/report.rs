//! [`Report`]: what the suite found.

use std::fmt;
use std::time::Duration;

/// What the suite found, case by case.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub(crate) outcomes: Vec<Outcome>,
}

/// What one case found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The case, as `group::sentence`.
    pub case: &'static str,
    /// What it found.
    pub verdict: Verdict,
    /// How long it took.
    pub took: Duration,
}

/// What a case found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The store does what the case asks.
    Passed,
    /// It does not, and why.
    Failed(String),
    /// Its guarantees, or what its deployments can do, rule the case out, and why.
    Ignored(String),
}

impl Report {
    /// Every case that came to a verdict.
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The names of the cases that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |outcome: &&Outcome| matches!(outcome.verdict, Verdict::Failed(_));
        self.outcomes.iter().filter(failed).map(|outcome| outcome.case).collect()
    }

    /// Whether cases were asked, and none of them failed.
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
