//! [`Batcher`]: requests and releases of one process that come at the same time, sent together.

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

/// Requests and releases of one process that come at the same time, sent together: one call for many costs the server
/// and this process far less than many calls.
///
/// Each slot has a lane. While fewer calls than [`TARGET_IN_FLIGHT`] are on a lane, who comes is sent at once, alone; else it
/// waits until one of them is answered, and is sent with all that came meanwhile. If none is answered within two
/// [`FLUSH_INTERVAL`], those that wait are sent all the same, up to [`MAX_IN_FLIGHT`] calls on a lane.
#[derive(Debug)]
pub(crate) struct Batcher {
    router: Arc<Router>,
    tokens: Arc<Tokens>,
    keys: Keys,
    /// By slot; of those that were ever used.
    queues: Mutex<BTreeMap<u16, SlotQueue>>,
}

#[derive(Debug, Default)]
struct SlotQueue {
    in_flight: usize,
    pending: Vec<PendingOp>,
    /// So often were some sent together.
    batches_sent: u64,
    /// There is a [`Flusher`] of it.
    has_flusher: bool,
}

#[derive(Debug)]
struct PendingOp {
    op: Op,
    claim: Claim,
    reply: oneshot::Sender<Result<Option<TokenReply>>>,
    /// Where it waits, and since when.
    runtime: Handle,
    submitted_at: Instant,
}

/// What is asked for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Request,
    /// A release that leaves a mark, as a request of the same holder may still come.
    Withdraw,
    Release,
}

/// How one that comes is sent.
pub(crate) enum Dispatch {
    /// By itself, and alone, while this is kept.
    Alone(Permit),
    /// With others. The answer, or nothing if it is to be asked for alone after all.
    Batched(oneshot::Receiver<Result<Option<TokenReply>>>),
}

/// The right to one call on a lane. When it is dropped, those that have come meanwhile are sent.
pub(crate) struct Permit {
    /// `None` when it has ended.
    batcher: Option<Arc<Batcher>>,
    slot: u16,
}

/// So many calls are under way on a lane before those that come are gathered: enough that the server and this process
/// work at the same time, and that who comes on a network that takes long waits for a part of a round trip only.
const TARGET_IN_FLIGHT: usize = 2;
/// So many calls are under way on a lane at most, however long the server takes: what comes from one process must not
/// stand before all others there.
const MAX_IN_FLIGHT: usize = 8;
/// A caller that does not look at its answer keeps its turn: so often it is seen to whether those that wait are sent.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// So many are sent with one call: the server does nothing else meanwhile.
const MAX_BATCH: usize = 128;

impl Batcher {
    pub(crate) fn new(router: Arc<Router>, tokens: Arc<Tokens>, keys: Keys) -> Arc<Batcher> {
        Arc::new(Batcher { router, tokens, keys, queues: Mutex::default() })
    }

    fn queues(&self) -> MutexGuard<'_, BTreeMap<u16, SlotQueue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what comes by itself, or puts it where it is sent with others.
    pub(crate) fn submit(self: &Arc<Self>, slot: u16, op: Op, claim: &Claim) -> Dispatch {
        let mut queues = self.queues();
        let queue = queues.entry(slot).or_default();
        // Without a runtime nobody would send what waits.
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
        // What is spawned on a runtime that has ended is dropped here and now.
        drop(queues);
        if !has_flusher {
            runtime.spawn(Flusher { batcher: self.clone(), slot }.run());
        }
        Dispatch::Batched(received)
    }

    /// Those that wait on a lane; none ends the turn.
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

    /// The answer to one that is sent with others.
    pub(crate) async fn recv(reply: oneshot::Receiver<Result<Option<TokenReply>>>) -> Result<Option<TokenReply>> {
        reply.await.unwrap_or_else(|_| {
            let text = "redis: the runtime that sent this with others has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// Sends those that wait on a lane with one call more. At most [`TARGET_IN_FLIGHT`] of the calls are of callers who may not
    /// look, so that there is always one that goes on.
    fn flush(self: &Arc<Self>, slot: u16) {
        let mut queues = self.queues();
        let can = |queue: &&mut SlotQueue| !queue.pending.is_empty() && queue.in_flight < MAX_IN_FLIGHT;
        let Some(queue) = queues.get_mut(&slot).filter(can) else { return };
        queue.in_flight += 1;
        drop(queues);
        drop(Permit { batcher: Some(self.clone()), slot });
    }

    /// The step for all of these, which are in the order of what they ask for.
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
            // Nothing was done. A key may be elsewhere, or one that this user may not use.
            Ok(Routed::SlotSplit) => Ok(batch.iter().map(|_| None).collect()),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(batch.iter().map(|_| None).collect()),
            Err(error) => Err(error),
        };
        // Who does not listen any more was cut off, and is withdrawn by whoever cut it off.
        match replies {
            Ok(replies) => {
                batch.into_iter().zip(replies).for_each(|(one, reply)| drop(one.reply.send(Ok(reply))));
            }
            Err(error) => batch.into_iter().for_each(|one| drop(one.reply.send(Err(error.clone())))),
        }
    }
}

/// Sees to it that those that wait on a lane are sent, whoever keeps a turn.
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
        // It may have been dropped in the middle, if what came was of a runtime that has ended.
        self.batcher.flush(self.slot);
    }
}

fn must_retry_alone(answer: &Value) -> bool {
    matches!(answer, Value::Array(words) if matches!(&words[..], [Value::BulkString(word)] if word == b"alone" || word == b"new"))
}

impl Permit {
    /// It has ended already.
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
        // Whoever dropped this may have no runtime; those that wait have.
        let Some(runtime) = first.first().map(|pending_op| pending_op.runtime.clone()) else { return };
        runtime.spawn(async move {
            let mut batch = Some(first);
            while let Some(next) = batch {
                batcher.send(slot, next).await;
                // Who has its answer now, and asks for more, goes along.
                tokio::task::yield_now().await;
                batch = batcher.next_batch(slot);
            }
            permit.consume();
        });
    }
}
