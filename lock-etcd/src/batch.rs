//! [`Batches`]: releases that travel together.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Client, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tokio::sync::oneshot;

use crate::error::protocol;
use crate::link::Lane;
use crate::members::{CallError, Called, Members, Turn};

/// Releases that wait for their turn, and then travel together: what many give back at once costs etcd one entry of its log
/// for some tens of them. Who is alone does not come here.
///
/// They are sent by tasks of their own: whoever asks may stop asking, and costs nobody else an answer.
#[derive(Debug, Default)]
pub(crate) struct Batches(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Whether a task waits for the next turn.
    runs: bool,
}

/// One release.
#[derive(Debug)]
struct Entry {
    /// The lock: two keys of one lock are never in one transaction.
    range: Vec<u8>,
    txn: Txn,
    answer: oneshot::Sender<Result<Answered, CallError>>,
}

/// The answer to one release.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) revision: i64,
    pub(crate) response: TxnResponse,
    /// As for [`Called`](crate::members::Called).
    pub(crate) cut_off: bool,
}

/// How many travel together: etcd takes transactions of up to 128 operations, and each of these is a transaction inside.
const TOGETHER: usize = 32;

/// How many of one lock are passed over to find others.
const LOOKED_AT: usize = 4 * TOGETHER;

impl Batches {
    /// Sends this transaction with others, when it is their turn.
    pub(crate) async fn send(members: &Arc<Members>, range: &[u8], txn: Txn) -> Result<Answered, CallError> {
        let link = members.link().map_err(CallError::of)?;
        let (answer, answered) = oneshot::channel();
        if link.batches.add(Entry { range: range.to_vec(), txn, answer }) {
            tokio::spawn(run(members.clone()));
        }
        // The task has ended with its runtime.
        let lost = || Err(CallError::of(protocol("a release was cut off with its runtime")));
        answered.await.unwrap_or_else(|_| lost())
    }

    /// Whether a task must be started for it.
    fn add(&self, entry: Entry) -> bool {
        let mut state = self.locked();
        state.waiting.push_back(entry);
        !std::mem::replace(&mut state.runs, true)
    }

    /// The next that may travel together. If there is none, the task ends.
    fn next(&self) -> Vec<Entry> {
        let mut state = self.locked();
        let (mut ranges, mut batch, mut later) = (HashSet::new(), Vec::new(), VecDeque::new());
        while batch.len() < TOGETHER
            && later.len() < LOOKED_AT
            && let Some(entry) = state.waiting.pop_front()
        {
            if ranges.insert(entry.range.clone()) {
                batch.push(entry);
            } else {
                later.push_back(entry);
            }
        }
        later.append(&mut state.waiting);
        state.waiting = later;
        state.runs = !batch.is_empty();
        batch
    }

    fn locked(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends what waits, one batch for each turn.
async fn run(members: Arc<Members>) {
    let Ok(link) = members.link() else { return };
    loop {
        let turn = match members.turn(Lane::Leave, "releasing").await {
            Ok(turn) => turn,
            // Not yet; or never more, and then each is told so.
            Err(failed) => {
                if failed.is_retryable() {
                    continue;
                }
                let refused = link.batches.next();
                refused.into_iter().for_each(|entry| drop(entry.answer.send(Err(CallError::of(failed.clone())))));
                if link.batches.locked().runs {
                    continue;
                }
                return;
            }
        };
        let batch = link.batches.next();
        if batch.is_empty() {
            return;
        }
        tokio::spawn(send(members.clone(), turn, batch));
    }
}

async fn send(members: Arc<Members>, turn: Turn, batch: Vec<Entry>) {
    let txn = Txn::new().and_then(batch.iter().map(|entry| TxnOp::txn(entry.txn.clone())).collect::<Vec<_>>());
    let call = |client: Arc<Client>| {
        let txn = txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    match members.call_in(&turn, "releasing", call).await {
        Ok(called) => {
            let revision = called.value.header().map_or(0, |header| header.revision());
            let mut inner = called.value.op_responses().into_iter();
            for entry in batch {
                let answer = match inner.next() {
                    Some(TxnOpResponse::Txn(response)) => Ok(Answered { revision, response, cut_off: called.cut_off }),
                    _ => Err(CallError::of(protocol("a transaction of etcd has other answers than questions"))),
                };
                // Who asked may have gone.
                drop(entry.answer.send(answer));
            }
        }
        // One of them had to leave a mark on a lease that is gone: each by itself, to find out which.
        Err(failed) if failed.lease_is_gone && batch.len() > 1 => {
            for entry in batch {
                Box::pin(send_alone(&members, &turn, entry)).await;
            }
        }
        Err(failed) => {
            let again = || CallError { error: failed.error.clone(), lease_is_gone: failed.lease_is_gone };
            batch.into_iter().for_each(|entry| drop(entry.answer.send(Err(again()))));
        }
    }
}

async fn send_alone(members: &Members, turn: &Turn, entry: Entry) {
    let call = |client: Arc<Client>| {
        let txn = entry.txn.clone();
        async move { client.kv_client().txn(txn).await }
    };
    let called = members.call_in(turn, "releasing", call).await;
    drop(entry.answer.send(called.map(Answered::from)));
}

impl From<Called<TxnResponse>> for Answered {
    fn from(called: Called<TxnResponse>) -> Answered {
        let revision = called.value.header().map_or(0, |header| header.revision());
        Answered { revision, response: called.value, cut_off: called.cut_off }
    }
}
