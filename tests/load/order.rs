//! [`Order`] and [`Answer`]: the protocol of a worker, one line of JSON each.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An order to a worker. Locks are in groups: the locks of `jobs` have the names `jobs-0`, `jobs-1`
/// and so on.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// Acquires the locks of a group and keeps them.
    Hold { group: String, count: usize, ttl: Duration },
    /// Starts waiters, and answers when each of them knows who is ahead.
    Wait(Crowd),
    /// Answers when every waiter of the group has been served, or has ended.
    Serve { group: String },
    /// Drops all guards of a group at once.
    Drop { group: String },
    /// Releases all guards of a group at once.
    Release { group: String },
    /// Answers at once, and watches the next renewal of each lock of a group from now on.
    Watch { group: String },
    /// Answers when each watched lock was renewed.
    Renewed { group: String },
    /// Runs tasks, each of which tries to acquire its own lock and releases it, repeatedly for this
    /// time.
    Try { group: String, tasks: usize, time: Duration },
    /// Closes the locks of this process.
    Close,
    /// Counts the held locks of a group.
    List { group: String },
    /// Counts the lines that this process would have logged.
    Lines,
}

/// Waiters of one process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Crowd {
    pub(crate) group: String,
    /// Number of names that they wait for.
    pub(crate) names: usize,
    pub(crate) waiters: usize,
    pub(crate) ttl: Duration,
    /// Wait limit of a waiter.
    pub(crate) limit: Duration,
    /// Number of waiters whose limit is `patience`.
    pub(crate) impatient: usize,
    pub(crate) patience: Duration,
    /// They keep the lock instead of releasing it at once.
    pub(crate) keeps: bool,
}

/// The outcome of an order.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Answer {
    /// Number of locks acquired, waiting, served, dropped, released, renewed, answered, or held.
    pub(crate) done: usize,
    /// Guards that were lost before.
    pub(crate) lost: usize,
    /// Waiters and tries that ended by their own limit.
    pub(crate) timed_out: usize,
    /// The longest time by which one of them ended after its limit.
    pub(crate) latest: Duration,
    /// Tries that were turned away by an overloaded server, without effect.
    pub(crate) turned_away: usize,
    /// Other failures, and work that is not done in time.
    pub(crate) failed: usize,
    /// Releases without an answer, which are retried in the background.
    pub(crate) in_doubt: usize,
    /// Tasks without any answer.
    pub(crate) starved: usize,
    /// Log lines.
    pub(crate) lines: usize,
    /// Messages of errors or log lines, with their counts.
    pub(crate) messages: BTreeMap<String, usize>,
    /// Duration.
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn note(&mut self, what: impl Into<String>) {
        *self.messages.entry(what.into()).or_default() += 1;
    }

    /// The most frequent messages.
    pub(crate) fn most_frequent(&self) -> String {
        let mut messages: Vec<_> = self.messages.iter().collect();
        messages.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        let lines: Vec<_> = messages.iter().take(6).map(|(what, times)| format!("{times} x {what}")).collect();
        lines.join("\n    ")
    }
}
