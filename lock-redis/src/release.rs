//! Releases.

use lock_core::kit::Submission;
use lock_core::{Claim, ReleaseOutcome, Result};
use redis::Value as Answer;

use crate::connection::Connection;
use crate::error;
use crate::routed::Routed;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::slot_batcher::Op;
use crate::store::RedisStore;
use crate::value::{holder_prefix, tombstone_ttl_ms};

impl RedisStore {
    /// Releases the lease of a claim. Where a request of it may arrive late, it leaves a tombstone
    /// that refuses it.
    pub(crate) async fn release_claim(&self, claim: &Claim, may_arrive_late: bool) -> Result<ReleaseOutcome> {
        let (slot, connections) = (self.keys.lock_slot(claim.name()), self.connections()?);
        let op = if may_arrive_late { Op::Withdraw } else { Op::Release };
        let permit = match connections.batchers.submit(slot, op, claim).await? {
            Submission::Alone(permit) => Some(permit),
            Submission::Batched(Some(reply)) => return parse_release(&reply.answer, &reply.connection),
            Submission::Batched(None) => None,
        };
        let call = self.release_call(slot, claim, may_arrive_late);
        let (answer, connection) = match &permit {
            Some(_) => match connections.router.run_with_permit(slot, call, None).await? {
                Routed::Done(answer, connection) => (answer, connection),
                Routed::SlotSplit => {
                    // The retry waits for a slot migration, and must not block the batch.
                    drop(permit);
                    let call = self.release_call(slot, claim, may_arrive_late);
                    Box::pin(connections.router.run(slot, call)).await?
                }
            },
            None => Box::pin(connections.router.run(slot, call)).await?,
        };
        parse_release(&answer, &connection)
    }

    fn release_call(&self, slot: u16, claim: &Claim, may_arrive_late: bool) -> ScriptCall {
        let (key, holder) = (self.keys.lock(claim.name()), holder_prefix(claim.holder()));
        match may_arrive_late {
            true => {
                let (tombstone, ttl_ms) = (self.keys.tombstone(slot, claim.holder()), tombstone_ttl_ms(claim));
                ScriptCall::new(Script::Release, &[key, tombstone], &[holder, ttl_ms.to_string()])
            }
            false => ScriptCall::new(Script::Release, &[key], &[holder]),
        }
    }
}

/// The outcome in the reply of the script.
fn parse_release(answer: &Answer, connection: &Connection) -> Result<ReleaseOutcome> {
    match answer {
        Answer::Int(1) => Ok(ReleaseOutcome::Held),
        Answer::Int(0) => Ok(ReleaseOutcome::NotHeld),
        _ => Err(error::unexpected_reply(&connection.endpoint.to_string(), Script::Release.action())),
    }
}
