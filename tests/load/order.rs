//! [`Order`], what a worker is told to do, and [`Answer`], how that went: one line of JSON each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a worker is told to do. Locks are in groups: those of `jobs` have the names `jobs-0`, `jobs-1` and so on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Acquires the locks of a group and keeps them.
    Hold { group: String, count: usize, ttl: Duration },
    /// Begins to wait, and answers when every waiter has been told who is ahead.
    Wait(Crowd),
    /// Answers when every waiter of the group has been served, or has ended.
    Serve { group: String },
    /// Drops all guards of a group at once.
    Drop { group: String },
    /// Releases all guards of a group at once.
    Release { group: String },
    /// Answers at once, and looks from now on for the next renewal of each lock of a group.
    Watch { group: String },
    /// Answers when each lock that is watched was renewed.
    Renewed { group: String },
    /// So many tasks try to acquire a lock of their own, and release it, again and again for a while.
    Try { group: String, tasks: usize, time: Duration },
    /// Closes the locks of this process.
    Close,
    /// Looks which locks of a group somebody holds.
    List { group: String },
    /// Counts the lines that this process would have logged.
    Lines,
}

/// Waiters of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) group: String,
    /// How many names they wait for.
    pub(crate) names: usize,
    pub(crate) waiters: usize,
    pub(crate) ttl: Duration,
    /// How long they wait at most.
    pub(crate) limit: Duration,
    /// So many of them wait no longer than `patience`.
    pub(crate) impatient: usize,
    pub(crate) patience: Duration,
    /// Whether they keep what they get, and do not release it at once.
    pub(crate) keeps: bool,
}

/// How an order went.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    /// What was acquired, is waiting, was served, dropped, released, renewed, answered, is held.
    pub(crate) done: usize,
    /// Guards that were lost before.
    pub(crate) lost: usize,
    /// Waiters that ended by their own limit.
    pub(crate) timed_out: usize,
    /// By how much the latest of them ended after its limit.
    pub(crate) latest: Duration,
    /// Tries that were told "not now", of which nothing is left.
    pub(crate) turned_away: usize,
    /// What failed otherwise, or is not done though time is up.
    pub(crate) failed: usize,
    /// Releases that brought no answer, and are repeated in the background.
    pub(crate) unclear: usize,
    /// Tasks that never got an answer.
    pub(crate) starved: usize,
    /// Lines of the log.
    pub(crate) lines: usize,
    /// What errors or lines said, and how often.
    pub(crate) said: BTreeMap<String, usize>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn say(&mut self, what: impl Into<String>) {
        *self.said.entry(what.into()).or_default() += 1;
    }

    /// What was said most often.
    pub(crate) fn loudest(&self) -> String {
        let mut said: Vec<_> = self.said.iter().collect();
        said.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let said: Vec<_> = said.iter().take(6).map(|(what, times)| format!("{times} x {what}")).collect();
        said.join("\n    ")
    }
}
