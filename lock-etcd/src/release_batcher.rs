//! Batches of releases: [`submit`].

use std::sync::Arc;

use etcd_client::{Client, Txn, TxnOp, TxnOpResponse};
use lock_core::Error;
use tokio::sync::oneshot;

use crate::call::{CallError, CallKind};
use crate::connections::CallPermit;
use crate::members::Members;
use crate::release_queue::{PendingRelease, ReleaseReply};

/// Sends a release in a batch with others, after those that came before it.
///
/// Many releases at once cost etcd one log entry for each batch. A release that finds a free permit
/// is sent by itself and does not come here. Batches are sent by tasks of their own: a caller that
/// stops polling delays no other caller's reply.
pub(crate) async fn submit(members: &Arc<Members>, range: &[u8], txn: Txn) -> Result<ReleaseReply, CallError> {
    let connections = members.connections().map_err(CallError::of)?;
    let (reply, receiver) = oneshot::channel();
    if connections.release_queue.enqueue(PendingRelease { range: range.to_vec(), txn, reply }) {
        tokio::spawn(send_all(members.clone()));
    }
    // The task has ended with its runtime.
    let lost = || Err(CallError::of(Error::unexpected_reply("a release was cut off with its runtime")));
    receiver.await.unwrap_or_else(|_| lost())
}

/// Sends what is waiting, one batch for each permit.
async fn send_all(members: Arc<Members>) {
    let Ok(connections) = members.connections() else { return };
    let queue = &connections.release_queue;
    loop {
        let permit = match members.acquire_permit(CallKind::Release, "releasing").await {
            Ok(permit) => permit,
            Err(failed) if failed.is_retryable() => continue,
            // The handle has been refused for good.
            Err(failed) => {
                for release in queue.take_batch() {
                    drop(release.reply.send(Err(CallError::of(failed.clone()))));
                }
                if queue.is_running() {
                    continue;
                }
                return;
            }
        };
        let batch = queue.take_batch();
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
            let (in_doubt, mut responses) = (reply.in_doubt, reply.value.op_responses().into_iter());
            for release in batch {
                let reply = match responses.next() {
                    Some(TxnOpResponse::Txn(response)) => Ok(ReleaseReply { revision, response, in_doubt }),
                    _ => Err(CallError::of(Error::unexpected_reply(
                        "a transaction of etcd has other answers than questions",
                    ))),
                };
                // The caller may have gone.
                drop(release.reply.send(reply));
            }
        }
        // One of them had to leave a tombstone on a lease that is gone. Sent one by one, only that
        // one fails.
        Err(failed) if failed.lease_is_gone && batch.len() > 1 => {
            for release in batch {
                Box::pin(send_alone(&members, &permit, release)).await;
            }
        }
        Err(failed) => {
            for release in batch {
                let error = CallError { error: failed.error.clone(), lease_is_gone: failed.lease_is_gone };
                drop(release.reply.send(Err(error)));
            }
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
