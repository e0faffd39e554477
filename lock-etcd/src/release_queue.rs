//! [`ReleaseQueue`]: releases that wait to be sent in a batch.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard};

use etcd_client::{Txn, TxnResponse};
use lock_core::kit::locked;
use tokio::sync::oneshot;

use crate::call::{CallError, CallReply};

/// Maximum number of releases in a batch: etcd takes transactions of up to 128 operations, and each
/// release is a transaction inside.
const MAX_BATCH: usize = 32;

/// Maximum number of releases that are skipped in search of other locks.
const MAX_SKIPPED: usize = 4 * MAX_BATCH;

/// Releases of one runtime that wait to be sent in a batch.
#[derive(Debug, Default)]
pub(crate) struct ReleaseQueue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<PendingRelease>,
    /// True while a task sends the waiting releases.
    is_running: bool,
}

/// A release that waits to be sent.
#[derive(Debug)]
pub(crate) struct PendingRelease {
    /// The lock's key range: two keys of one lock are never in one transaction.
    pub(crate) range: Vec<u8>,
    pub(crate) txn: Txn,
    pub(crate) reply: oneshot::Sender<Result<ReleaseReply, CallError>>,
}

/// The reply to one release.
#[derive(Debug)]
pub(crate) struct ReleaseReply {
    pub(crate) revision: i64,
    pub(crate) response: TxnResponse,
    /// As for [`CallReply`].
    pub(crate) in_doubt: bool,
}

impl ReleaseQueue {
    /// Adds a release; true if the caller has to start the sending task.
    pub(crate) fn enqueue(&self, release: PendingRelease) -> bool {
        let mut state = self.locked();
        state.waiting.push_back(release);
        !std::mem::replace(&mut state.is_running, true)
    }

    /// Takes the next batch. If it is empty, the sending task ends.
    pub(crate) fn take_batch(&self) -> Vec<PendingRelease> {
        let mut state = self.locked();
        let (mut ranges, mut batch, mut skipped) = (HashSet::new(), Vec::new(), VecDeque::new());
        while batch.len() < MAX_BATCH
            && skipped.len() < MAX_SKIPPED
            && let Some(release) = state.waiting.pop_front()
        {
            if ranges.insert(release.range.clone()) {
                batch.push(release);
            } else {
                skipped.push_back(release);
            }
        }
        skipped.append(&mut state.waiting);
        state.waiting = skipped;
        state.is_running = !batch.is_empty();
        batch
    }

    pub(crate) fn is_running(&self) -> bool {
        self.locked().is_running
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }
}

impl From<CallReply<TxnResponse>> for ReleaseReply {
    fn from(reply: CallReply<TxnResponse>) -> ReleaseReply {
        let revision = reply.value.header().map_or(0, |header| header.revision());
        ReleaseReply { revision, response: reply.value, in_doubt: reply.in_doubt }
    }
}
