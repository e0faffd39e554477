//! [`Queue`]: the calls that wait for a connection, and how they are cut into batches.

use std::collections::VecDeque;

use lock_core::{Attempt, Claim, Error, ReleaseOutcome, Result};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A claim, and the caller that waits for its outcome.
pub(super) type Pending<T> = (Claim, oneshot::Sender<Result<T>>);
/// A request. The outcome `None`: another transaction has locked the row.
pub(super) type PendingRequest = Pending<Option<Attempt>>;
pub(super) type PendingRelease = Pending<ReleaseOutcome>;

/// Maximum number of claims in one statement.
const MAX_BATCH: usize = 128;

/// The calls of one runtime that wait for a connection.
#[derive(Debug, Default)]
pub(super) struct Queue {
    requests: VecDeque<PendingRequest>,
    releases: VecDeque<PendingRelease>,
    /// The last batch was of requests, and the next is of releases.
    requests_went: bool,
    /// Number of sender tasks.
    pub(super) senders: usize,
    /// No further sender starts before this moment: the last one found no connection, and others
    /// have theirs.
    pub(super) no_sender_until: Option<Instant>,
}

/// The calls that are sent with one statement.
pub(super) enum Batch {
    Requests(Vec<PendingRequest>),
    Releases(Vec<PendingRelease>),
}

impl Queue {
    pub(super) fn push_request(&mut self, claim: Claim, sender: oneshot::Sender<Result<Option<Attempt>>>) {
        self.requests.push_back((claim, sender));
    }

    pub(super) fn push_release(&mut self, claim: Claim, sender: oneshot::Sender<Result<ReleaseOutcome>>) {
        self.releases.push_back((claim, sender));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty() && self.releases.is_empty()
    }

    /// True if one more sender may start, where there are at most `limit`.
    pub(super) fn may_start_sender(&self, limit: usize) -> bool {
        let backs_off = self.no_sender_until.is_some_and(|until| Instant::now() < until);
        self.senders < limit && (self.senders == 0 || !backs_off)
    }

    /// The next batch, first come first served; requests and releases take turns.
    pub(super) fn next_batch(&mut self) -> Option<Batch> {
        let (requests, releases) = (&mut self.requests, &mut self.releases);
        let (requested, released) = match self.requests_went {
            true => (Vec::new(), pop_batch(releases)),
            false => (pop_batch(requests), Vec::new()),
        };
        let (requested, released) = match (requested.is_empty() && released.is_empty(), self.requests_went) {
            (false, _) => (requested, released),
            (true, true) => (pop_batch(requests), released),
            (true, false) => (requested, pop_batch(releases)),
        };
        self.requests_went = !requested.is_empty();
        match (requested.is_empty(), released.is_empty()) {
            (false, _) => Some(Batch::Requests(requested)),
            (true, false) => Some(Batch::Releases(released)),
            (true, true) => None,
        }
    }

    pub(super) fn take_all(&mut self) -> (VecDeque<PendingRequest>, VecDeque<PendingRelease>) {
        (std::mem::take(&mut self.requests), std::mem::take(&mut self.releases))
    }
}

/// Takes a batch from the front. Calls that were cancelled are left out: nothing was sent for them,
/// and nothing is.
fn pop_batch<T>(queue: &mut VecDeque<Pending<T>>) -> Vec<Pending<T>> {
    let mut batch = Vec::new();
    while batch.len() < MAX_BATCH
        && let Some(pending) = queue.pop_front()
    {
        if !pending.1.is_closed() {
            batch.push(pending);
        }
    }
    batch
}

/// Fails all of these calls for the same reason.
pub(super) fn reject<T>(all: impl IntoIterator<Item = Pending<T>>, error: &Error) {
    all.into_iter().for_each(|(_, sender)| drop(sender.send(Err(error.clone()))));
}

/// The element of `all` that this row of a reply is about: the column `entry` counts from 1.
pub(super) fn entry_of<'a, T>(row: &PgRow, all: &'a mut [T]) -> Option<&'a mut T> {
    let number: i64 = row.try_get("entry").ok()?;
    all.get_mut(usize::try_from(number.checked_sub(1)?).ok()?)
}
