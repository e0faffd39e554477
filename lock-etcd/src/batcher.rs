//! [`Batches`]: releases that travel together.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Client, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::oneshot;

use crate::connections::CallKind;
use crate::error::unexpected_reply;
use crate::members::{CallError, CallPermit, CallReply, Members};

/// Releases that wait for their turn, and then travel together: what many give back at once costs etcd one entry of its log
/// for some tens of them. Who is alone does not come here.
///
/// They are sent by tasks of their own: whoever asks may stop asking, and costs nobody else an answer.
#[derive(Debug, Default)]
pub(crate) struct ReleaseBatcher(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<PendingRelease>,
    /// Whether a task waits for the next turn.
    is_running: bool,
}

/// One release.
#[derive(Debug)]
struct PendingRelease {
    /// The lock: two keys of one lock are never in one transaction.
    range: Vec<u8>,
    txn: Txn,
    reply: oneshot::Sender<Result<ReleaseReply, CallError>>,
}

/// The answer to one release.
#[derive(Debug)]
pub(crate) struct ReleaseReply {
    pub(crate) revision: i64,
    pub(crate) response: TxnResponse,
    /// As for [`Called`](crate::members::Called).
    pub(crate) in_doubt: bool,
}

/// How many travel together: etcd takes transactions of up to 128 operations, and each of these is a transaction inside.
const MAX_BATCH: usize = 32;

/// How many of one lock are passed over to find others.
const MAX_SCANNED: usize = 4 * MAX_BATCH;

impl ReleaseBatcher {
    /// Sends this transaction with others, when it is their turn.
    pub(crate) async fn submit(members: &Arc<Members>, range: &[u8], txn: Txn) -> Result<ReleaseReply, CallError> {
        let connections = members.connections().map_err(CallError::of)?;
        let (reply, reply_receiver) = oneshot::channel();
        if connections.release_queue.enqueue(PendingRelease { range: range.to_vec(), txn, reply }) {
            tokio::spawn(run(members.clone()));
        }
        // The task has ended with its runtime.
        let lost = || Err(CallError::of(unexpected_reply("a release was cut off with its runtime")));
        reply_receiver.await.unwrap_or_else(|_| lost())
    }

    /// Whether a task must be started for it.
    fn enqueue(&self, release: PendingRelease) -> bool {
        let mut state = self.locked();
        state.waiting.push_back(release);
        !std::mem::replace(&mut state.is_running, true)
    }

    /// The next that may travel together. If there is none, the task ends.
    fn take_batch(&self) -> Vec<PendingRelease> {
        let mut state = self.locked();
        let (mut ranges, mut batch, mut deferred) = (HashSet::new(), Vec::new(), VecDeque::new());
        while batch.len() < MAX_BATCH
            && deferred.len() < MAX_SCANNED
            && let Some(release) = state.waiting.pop_front()
        {
            if ranges.insert(release.range.clone()) {
                batch.push(release);
            } else {
                deferred.push_back(release);
            }
        }
        deferred.append(&mut state.waiting);
        state.waiting = deferred;
        state.is_running = !batch.is_empty();
        batch
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what waits, one batch for each turn.
async fn run(members: Arc<Members>) {
    let Ok(connections) = members.connections() else { return };
    loop {
        let permit = match members.acquire_permit(CallKind::Release, "releasing").await {
            Ok(permit) => permit,
            // Not yet; or never more, and then each is told so.
            Err(failed) => {
                if failed.is_retryable() {
                    continue;
                }
                let refused = connections.release_queue.take_batch();
                refused.into_iter().for_each(|release| drop(release.reply.send(Err(CallError::of(failed.clone())))));
                if connections.release_queue.locked().is_running {
                    continue;
                }
                return;
            }
        };
        let batch = connections.release_queue.take_batch();
        if batch.is_empty() {
            return;
        }
        tokio::spawn(send_batch(members.clone(), permit, batch));
    }
}

async fn send_batch(members: Arc<Members>, permit: CallPermit, batch: Vec<PendingRelease>) {
    let txn = Txn::new().and_then(batch.iter().map(|release| TxnOp::txn(release.txn.clone())).collect::<Vec<_>>());
    let call = |client: Arc<Client>| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    match members.call_with(&permit, "releasing", call).await {
        Ok(reply) => {
            let revision = reply.value.header().map_or(0, |header| header.revision());
            let mut inner = reply.value.op_responses().into_iter();
            for release in batch {
                let reply = match inner.next() {
                    Some(TxnOpResponse::Txn(response)) => {
                        Ok(ReleaseReply { revision, response, in_doubt: reply.in_doubt })
                    }
                    _ => Err(CallError::of(unexpected_reply("a transaction of etcd has other answers than questions"))),
                };
                // Who asked may have gone.
                drop(release.reply.send(reply));
            }
        }
        // One of them had to leave a mark on a lease that is gone: each by itself, to find out which.
        Err(failed) if failed.lease_is_gone && batch.len() > 1 => {
            for release in batch {
                Box::pin(send_alone(&members, &permit, release)).await;
            }
        }
        Err(failed) => {
            let failure = || CallError { error: failed.error.clone(), lease_is_gone: failed.lease_is_gone };
            batch.into_iter().for_each(|release| drop(release.reply.send(Err(failure()))));
        }
    }
}

async fn send_alone(members: &Members, permit: &CallPermit, release: PendingRelease) {
    let call = |client: Arc<Client>| {
        let txn = release.txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    let reply = members.call_with(permit, "releasing", call).await;
    drop(release.reply.send(reply.map(ReleaseReply::from)));
}

impl From<CallReply<TxnResponse>> for ReleaseReply {
    fn from(reply: CallReply<TxnResponse>) -> ReleaseReply {
        let revision = reply.value.header().map_or(0, |header| header.revision());
        ReleaseReply { revision, response: reply.value, in_doubt: reply.in_doubt }
    }
}
