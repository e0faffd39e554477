//! [`Batcher`]: sends requests and releases of the same time in one call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Claim, Effect, Error, ErrorKind, Result};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error;
use crate::keys::Keys;
use crate::reply::TokenReply;
use crate::routed::Routed;
use crate::router::Router;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::tokens::Tokens;
use crate::value::{holder_prefix, info_suffix, millis, tombstone_ttl_ms};

/// Sends requests and releases of the same time in one call, which costs the server and this
/// process far less than one call for each.
///
/// Each slot has a queue. While fewer than [`TARGET_IN_FLIGHT`] calls of the slot are in flight, an
/// operation is sent at once, alone. Otherwise it waits until one of them is answered, and is sent
/// with all that have been queued meanwhile. If none is answered within two [`FLUSH_INTERVAL`]s,
/// the batch is sent all the same, up to [`MAX_IN_FLIGHT`] calls of the slot.
#[derive(Debug)]
pub(crate) struct Batcher {
    router: Arc<Router>,
    tokens: Arc<Tokens>,
    keys: Keys,
    /// By slot, for those that were ever used.
    queues: Mutex<BTreeMap<u16, SlotQueue>>,
}

#[derive(Debug, Default)]
struct SlotQueue {
    in_flight: usize,
    pending: Vec<PendingOp>,
    /// Number of batches sent, by which the flusher notices progress.
    batches_sent: u64,
    /// A [`Flusher`] of this queue runs.
    has_flusher: bool,
}

#[derive(Debug)]
struct PendingOp {
    op: Op,
    claim: Claim,
    reply: oneshot::Sender<Result<Option<TokenReply>>>,
    /// The runtime that its caller waits on.
    runtime: Handle,
    submitted_at: Instant,
}

/// An operation on a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Request,
    /// A release that leaves a tombstone, since a request of the same holder may arrive late.
    Withdraw,
    Release,
}

/// The way in which an operation is sent.
pub(crate) enum Dispatch {
    /// By the caller, which holds the permit meanwhile.
    Alone(Permit),
    /// In a batch. The reply is `None` if the caller has to send it alone after all.
    Batched(oneshot::Receiver<Result<Option<TokenReply>>>),
}

/// The right to one call of a slot. When it is dropped, the queue of the slot is sent.
pub(crate) struct Permit {
    /// `None` when the permit has been given back.
    batcher: Option<Arc<Batcher>>,
    slot: u16,
}

/// Calls of a slot in flight from which on operations are batched: enough that the server and this
/// process work at the same time, and that on a slow network an operation waits for a part of a
/// round trip only.
const TARGET_IN_FLIGHT: usize = 2;
/// Limit of calls of a slot in flight, however slow the server is: the calls of one
/// process must not queue ahead of all others there.
const MAX_IN_FLIGHT: usize = 8;
/// Flush interval. A caller whose future is not polled keeps its permit; a waiting batch is then
/// sent after at most two intervals.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// Limit of operations in one call: the server does nothing else meanwhile.
const MAX_BATCH: usize = 128;

impl Batcher {
    pub(crate) fn new(router: Arc<Router>, tokens: Arc<Tokens>, keys: Keys) -> Arc<Batcher> {
        Arc::new(Batcher { router, tokens, keys, queues: Mutex::default() })
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<u16, SlotQueue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the caller send an operation alone, or queues it.
    pub(crate) fn submit(self: &Arc<Self>, slot: u16, op: Op, claim: &Claim) -> Dispatch {
        let mut queues = self.queues();
        let queue = queues.entry(slot).or_default();
        // Without a runtime no task could send the queue.
        let runtime = (queue.in_flight >= TARGET_IN_FLIGHT).then(Handle::try_current);
        let Some(Ok(runtime)) = runtime else {
            queue.in_flight += 1;
            return Dispatch::Alone(Permit { batcher: Some(self.clone()), slot });
        };
        let (reply, received) = oneshot::channel();
        queue.pending.push(PendingOp {
            op,
            claim: claim.clone(),
            reply,
            runtime: runtime.clone(),
            submitted_at: Instant::now(),
        });
        let has_flusher = std::mem::replace(&mut queue.has_flusher, true);
        // Not under the lock: on a runtime that has ended, `spawn` drops the flusher here and now.
        drop(queues);
        if !has_flusher {
            runtime.spawn(Flusher { batcher: self.clone(), slot }.run());
        }
        Dispatch::Batched(received)
    }

    /// The next batch of a slot; `None` if the queue is empty, and then the permit is given back.
    fn next_batch(&self, slot: u16) -> Option<Vec<PendingOp>> {
        let mut queues = self.queues();
        let queue = queues.entry(slot).or_default();
        if queue.pending.is_empty() {
            queue.in_flight -= 1;
            return None;
        }
        queue.batches_sent += 1;
        let left = queue.pending.split_off(queue.pending.len().min(MAX_BATCH));
        Some(std::mem::replace(&mut queue.pending, left))
    }

    /// The reply to a batched operation.
    pub(crate) async fn recv(reply: oneshot::Receiver<Result<Option<TokenReply>>>) -> Result<Option<TokenReply>> {
        reply.await.unwrap_or_else(|_| {
            let text = "redis: the runtime that sent this with others has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// Sends the queue of a slot with one more call. At most [`TARGET_IN_FLIGHT`] calls are driven
    /// by callers, which may not be polled; the calls above that make progress by themselves.
    fn flush(self: &Arc<Self>, slot: u16) {
        let mut queues = self.queues();
        let can = |queue: &&mut SlotQueue| !queue.pending.is_empty() && queue.in_flight < MAX_IN_FLIGHT;
        let Some(queue) = queues.get_mut(&slot).filter(can) else { return };
        queue.in_flight += 1;
        drop(queues);
        drop(Permit { batcher: Some(self.clone()), slot });
    }

    /// The call for a batch that is sorted by operation.
    fn batch_call(&self, slot: u16, realm_id: &str, known: u64, batch: &[PendingOp]) -> ScriptCall {
        const BYTES: usize = 192;
        let of = |op| batch.iter().filter(move |pending_op| pending_op.op == op).map(|pending_op| &pending_op.claim);
        let (requested, withdrawn) = (of(Op::Request).count(), of(Op::Withdraw).count());
        let released = || of(Op::Withdraw).chain(of(Op::Release));
        let keys = 1 + requested + batch.len() + withdrawn;
        let mut call = ScriptCall::with_capacity(Script::Batch, keys, 3 * batch.len() + 3, BYTES * batch.len());
        call.push(&self.keys.counter(slot, realm_id));
        of(Op::Request).for_each(|claim| call.push(&self.keys.lock(claim.name())));
        of(Op::Request).for_each(|claim| call.push(&self.keys.tombstone(slot, claim.holder())));
        released().for_each(|claim| call.push(&self.keys.lock(claim.name())));
        of(Op::Withdraw).for_each(|claim| call.push(&self.keys.tombstone(slot, claim.holder())));
        let mut digits = itoa::Buffer::new();
        call.push(digits.format(known));
        call.push(digits.format(requested));
        call.push(digits.format(withdrawn));
        let mut previous = None;
        for claim in of(Op::Request) {
            call.push(&holder_prefix(claim.holder()));
            call.push(digits.format(millis(claim.ttl())));
            match previous.replace(claim.info()) {
                Some(previous) if previous == claim.info() => call.push("="),
                _ => call.push(&info_suffix(claim.info())),
            }
        }
        released().for_each(|claim| call.push(&holder_prefix(claim.holder())));
        of(Op::Withdraw).for_each(|claim| call.push(digits.format(tombstone_ttl_ms(claim))));
        call
    }

    async fn send(&self, slot: u16, mut batch: Vec<PendingOp>) {
        batch.sort_by_key(|pending_op| pending_op.op);
        let (realm_id, known) = self.tokens.snapshot(slot);
        let submitted_at = batch.iter().map(|pending_op| pending_op.submitted_at).max();
        let call = self.batch_call(slot, &realm_id, known, &batch);
        let action = call.script.action();
        let replies: Result<Vec<Option<TokenReply>>> = match self.router.run_with_permit(slot, call, submitted_at).await
        {
            Ok(Routed::Done(Value::Array(answers), connection)) if answers.len() == batch.len() => {
                let answers = answers.into_iter().map(|answer| match must_retry_alone(&answer) {
                    true => None,
                    false => Some(TokenReply { answer, realm_id: realm_id.clone(), connection: connection.clone() }),
                });
                Ok(answers.collect())
            }
            Ok(Routed::Done(_, connection)) => Err(error::unexpected_reply(&connection.endpoint.to_string(), action)),
            // Nothing was done. One key may be on another node, or forbidden to this user.
            Ok(Routed::SlotSplit) => Ok(batch.iter().map(|_| None).collect()),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(batch.iter().map(|_| None).collect()),
            Err(error) => Err(error),
        };
        // A caller that is gone was cancelled, and whoever cancelled it withdraws its request.
        match replies {
            Ok(replies) => {
                batch.into_iter().zip(replies).for_each(|(one, reply)| drop(one.reply.send(Ok(reply))));
            }
            Err(error) => batch.into_iter().for_each(|one| drop(one.reply.send(Err(error.clone())))),
        }
    }
}

/// Sends the queue of a slot when no permit is given back in time.
struct Flusher {
    batcher: Arc<Batcher>,
    slot: u16,
}

impl Flusher {
    async fn run(self) {
        let mut batches_sent = None;
        loop {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            let pending = {
                let queues = self.batcher.queues();
                queues.get(&self.slot).filter(|queue| !queue.pending.is_empty()).map(|queue| queue.batches_sent)
            };
            if pending.is_none() {
                return;
            }
            if pending == batches_sent {
                self.batcher.flush(self.slot);
            }
            batches_sent = pending;
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.batcher.queues().entry(self.slot).or_default().has_flusher = false;
        // If its runtime has ended, it was dropped while operations wait.
        self.batcher.flush(self.slot);
    }
}

/// True for an operation that did nothing in the batch and has to be sent alone.
fn must_retry_alone(answer: &Value) -> bool {
    matches!(answer, Value::Array(words) if matches!(&words[..], [Value::BulkString(word)] if word == b"alone" || word == b"new"))
}

impl Permit {
    /// Marks the permit as given back already.
    fn consume(mut self) {
        self.batcher = None;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(batcher) = self.batcher.take() else { return };
        let slot = self.slot;
        let Some(first) = batcher.next_batch(slot) else { return };
        let permit = Permit { batcher: Some(batcher.clone()), slot };
        // The task that drops the permit may have no runtime; a queued operation has one.
        let Some(runtime) = first.first().map(|pending_op| pending_op.runtime.clone()) else { return };
        runtime.spawn(async move {
            let mut batch = Some(first);
            while let Some(next) = batch {
                batcher.send(slot, next).await;
                // Lets callers that have their reply join the next batch.
                tokio::task::yield_now().await;
                batch = batcher.next_batch(slot);
            }
            permit.consume();
        });
    }
}
