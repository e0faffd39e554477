//! [`SlotBatcher`]: sends requests and releases of the same time in one call.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lock_core::kit::{BatchExecutor, Batcher, PendingOp, Submission, locked};
use lock_core::{Claim, ErrorKind, Result};
use redis::Value;

use crate::error;
use crate::keys::Keys;
use crate::reply::TokenReply;
use crate::routed::Routed;
use crate::router::Router;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::tokens::Tokens;
use crate::value::{holder_prefix, info_suffix, millis, tombstone_ttl_ms};

/// The batchers of one runtime, by slot, for those that were ever used.
#[derive(Debug)]
pub(crate) struct SlotBatchers {
    context: Arc<Context>,
    by_slot: Mutex<BTreeMap<u16, Arc<SlotBatcher>>>,
}

/// Sends requests and releases of one slot. While fewer than [`TARGET_IN_FLIGHT`] calls of the slot
/// are in flight, the caller sends its operation by itself. Otherwise it is sent with others.
#[derive(Debug)]
pub(crate) struct SlotBatcher {
    slot: u16,
    context: Arc<Context>,
    /// The reply is `None` if the caller has to send its operation alone after all.
    batcher: Batcher<ClaimOp, Option<TokenReply>>,
}

#[derive(Debug)]
struct Context {
    router: Arc<Router>,
    tokens: Arc<Tokens>,
    keys: Keys,
}

/// An operation on a claim.
#[derive(Debug)]
pub(crate) struct ClaimOp {
    op: Op,
    claim: Claim,
}

/// What is done with a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Op {
    Request,
    /// A release that leaves a tombstone, since a request of the same holder may arrive late.
    Withdraw,
    Release,
}

type Pending = PendingOp<ClaimOp, Option<TokenReply>>;

/// Calls of a slot in flight from which on operations are batched: enough that the server and this
/// process work at the same time, and that on a slow network an operation waits for a part of a
/// round trip only.
const TARGET_IN_FLIGHT: usize = 2;
/// Limit of calls of a slot in flight, however slow the server is: the calls of one
/// process must not queue ahead of all others there.
const MAX_IN_FLIGHT: usize = 8;
/// Limit of operations in one call: the server does nothing else meanwhile.
const MAX_BATCH: usize = 128;

impl SlotBatchers {
    pub(crate) fn new(router: Arc<Router>, tokens: Arc<Tokens>, keys: Keys) -> SlotBatchers {
        SlotBatchers { context: Arc::new(Context { router, tokens, keys }), by_slot: Mutex::default() }
    }

    /// Lets the caller send an operation alone, or sends it with others.
    ///
    /// # Errors
    ///
    /// As for a call.
    pub(crate) async fn submit(&self, slot: u16, op: Op, claim: &Claim) -> Result<Submission<SlotBatcher>> {
        let batcher = self.of_slot(slot);
        Batcher::submit(&batcher, || ClaimOp { op, claim: claim.clone() }).await
    }

    fn of_slot(&self, slot: u16) -> Arc<SlotBatcher> {
        let new = || {
            let batcher = Batcher::new("redis", MAX_BATCH).with_in_flight(TARGET_IN_FLIGHT, MAX_IN_FLIGHT);
            Arc::new(SlotBatcher { slot, context: self.context.clone(), batcher })
        };
        locked(&self.by_slot).entry(slot).or_insert_with(new).clone()
    }
}

impl BatchExecutor for SlotBatcher {
    type Op = ClaimOp;
    type Reply = Option<TokenReply>;

    fn batcher(&self) -> &Batcher<ClaimOp, Option<TokenReply>> {
        &self.batcher
    }

    async fn execute(self: Arc<Self>, mut batch: Vec<Pending>) {
        batch.sort_by_key(|pending| pending.op.op);
        match self.send(&batch).await {
            Ok(replies) => batch.into_iter().zip(replies).for_each(|(pending, reply)| pending.reply.send(Ok(reply))),
            Err(error) => batch.into_iter().for_each(|pending| pending.reply.send(Err(error.clone()))),
        }
    }
}

impl SlotBatcher {
    /// The replies to a batch that is sorted by operation.
    async fn send(&self, batch: &[Pending]) -> Result<Vec<Option<TokenReply>>> {
        let (realm_id, known) = self.context.tokens.snapshot(self.slot);
        let submitted_at = batch.iter().map(|pending| pending.submitted_at).max();
        let call = self.call(&realm_id, known, batch);
        let action = call.script.action();
        match self.context.router.run_with_permit(self.slot, call, submitted_at).await {
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
        }
    }

    /// The call for a batch that is sorted by operation.
    fn call(&self, realm_id: &str, known: u64, batch: &[Pending]) -> ScriptCall {
        const BYTES: usize = 192;
        let of = |op| batch.iter().map(|pending| &pending.op).filter(move |of| of.op == op).map(|of| &of.claim);
        let (keys, slot) = (&self.context.keys, self.slot);
        let (requested, withdrawn) = (of(Op::Request).count(), of(Op::Withdraw).count());
        let released = || of(Op::Withdraw).chain(of(Op::Release));
        let key_count = 1 + requested + batch.len() + withdrawn;
        let mut call = ScriptCall::with_capacity(Script::Batch, key_count, 3 * batch.len() + 3, BYTES * batch.len());
        call.push(&keys.counter(slot, realm_id));
        of(Op::Request).for_each(|claim| call.push(&keys.lock(claim.name())));
        of(Op::Request).for_each(|claim| call.push(&keys.tombstone(slot, claim.holder())));
        released().for_each(|claim| call.push(&keys.lock(claim.name())));
        of(Op::Withdraw).for_each(|claim| call.push(&keys.tombstone(slot, claim.holder())));
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
}

/// True for an operation that did nothing in the batch and has to be sent alone.
fn must_retry_alone(answer: &Value) -> bool {
    matches!(answer, Value::Array(words) if matches!(&words[..], [Value::BulkString(word)] if word == b"alone" || word == b"new"))
}
