//! Renewals of a batch of leases.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use lock_core::{Claim, Error, ErrorKind, Renewal, RenewalBatch, RenewalOutcome, Result};
use redis::Value as Answer;

use crate::connections::Connections;
use crate::error;
use crate::routed::Routed;
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::store::RedisStore;
use crate::value::{holder_prefix, millis};

impl RedisStore {
    /// Renews the leases of a batch, all slots at the same time: a cluster node that does not
    /// answer must not delay the renewals at the others.
    pub(crate) async fn renew_batch(&self, batch: &RenewalBatch) -> Result<()> {
        let mut by_slot: BTreeMap<u16, Vec<(&Renewal, &Claim)>> = BTreeMap::new();
        for (entry, claim) in batch.leases() {
            by_slot.entry(self.keys.lock_slot(claim.name())).or_default().push((entry, claim));
        }
        let connections = &self.connections()?;
        let slots = by_slot.into_iter().map(|(slot, entries)| self.renew_slot(connections, slot, entries));
        join_all(slots).await.into_iter().collect()
    }

    /// Renews the leases of one slot. Entries that are not answered failed with the error that is
    /// returned.
    async fn renew_slot(&self, connections: &Connections, slot: u16, entries: Vec<(&Renewal, &Claim)>) -> Result<()> {
        let keys: Vec<String> = entries.iter().map(|(_, claim)| self.keys.lock(claim.name())).collect();
        let arguments =
            entries.iter().flat_map(|(_, claim)| [holder_prefix(claim.holder()), millis(claim.ttl()).to_string()]);
        let call = ScriptCall::new(Script::Renew, &keys, &arguments.collect::<Vec<_>>());
        let (answer, connection) = match connections.router.run_splittable(slot, call).await? {
            Routed::Done(answer, connection) => (answer, connection),
            // The slot migrates, and each lock is on one of two nodes.
            Routed::SlotSplit => {
                let each = entries.into_iter().map(|entry| Box::pin(self.renew_slot(connections, slot, vec![entry])));
                return join_all(each).await.into_iter().collect();
            }
        };
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Renew.action());
        let Answer::Array(answers) = answer else { return Err(unexpected()) };
        if answers.len() != entries.len() {
            return Err(unexpected());
        }
        let mut failure = None;
        for ((entry, _), answer) in entries.iter().zip(&answers) {
            match answer {
                Answer::Int(0) => entry.answer(RenewalOutcome::NotHeld),
                Answer::Int(1) => {}
                _ => {
                    let text = format!("{}: renewing: this user may not use that key", connection.endpoint);
                    failure = Some(Error::refused(ErrorKind::Denied, text));
                }
            }
        }
        self.acknowledge_change(connections.acknowledgement.as_ref(), "a renewal", slot, &connection).await?;
        for ((entry, claim), _) in entries.iter().zip(&answers).filter(|(_, answer)| **answer == Answer::Int(1)) {
            entry.answer(RenewalOutcome::HeldFor(claim.ttl()));
        }
        failure.map_or(Ok(()), Err)
    }
}
