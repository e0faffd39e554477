//! Renews leases at every member, in batches, by majority.

use std::sync::Arc;
use std::time::Duration;

use super::Quorum;
use super::call::bounded;
use super::vote::Votes;
use crate::contract::{LockStore, Renewal, RenewalBatch, RenewalOutcome};
use crate::words::{Clock, Effect, Error, Moment, Result};

/// Tally of one entry of a batch, while the members answer.
struct Tally<'b> {
    entry: &'b Renewal,
    /// TTL at each member that renewed it, counted from the sending of the whole batch.
    kept: Vec<Duration>,
    gone: usize,
}

impl Quorum {
    pub(super) async fn renew_all(&self, batch: &RenewalBatch) -> Result<()> {
        let mut tallies = Vec::with_capacity(batch.len());
        let mut claims = Vec::with_capacity(batch.len());
        let mut shortest = Duration::MAX;
        for (entry, claim) in batch.leases() {
            tallies.push(Tally { entry, kept: Vec::new(), gone: 0 });
            claims.push(self.votes(claim));
            shortest = shortest.min(claim.ttl());
        }
        if tallies.is_empty() {
            return Ok(());
        }
        let (claims, limit) = (Arc::new(claims), self.limit(shortest));
        let mut answers = self.each(|at, store| {
            let (claims, clock) = (claims.clone(), batch.clock().clone());
            async move {
                match store {
                    Ok(store) => renew_at(at, &*store, &claims, &clock, limit).await,
                    Err(error) => (vec![None; claims.len()], Some(error)),
                }
            }
        });
        while let Some((_, (renewed, failure))) = answers.recv().await {
            for (tally, renewed) in tallies.iter_mut().zip(renewed) {
                tally.count(renewed, batch.sent());
                tally.answer(self);
            }
            if tallies.iter().all(|tally| tally.entry.outcome().is_some()) {
                return Ok(());
            }
            if let Some(failure) = failure {
                batch.note_failure(failure);
            }
        }
        Err(self.too_few(0, &[], Effect::Unknown))
    }
}

impl Tally<'_> {
    fn count(&mut self, renewed: Option<RenewalOutcome>, sent: Moment) {
        match renewed {
            Some(RenewalOutcome::HeldFor(ttl)) => self.kept.push(ttl),
            Some(RenewalOutcome::HeldSince(from, ttl)) => self.kept.push(ttl.min(from.after(ttl).since(sent))),
            Some(RenewalOutcome::NotHeld) => self.gone += 1,
            None => {}
        }
    }

    fn answer(&self, quorum: &Quorum) {
        if self.kept.len() >= quorum.majority() {
            // The core accepts it only while the lease is still valid: "extend only within the
            // validity".
            let least = self.kept.iter().min().copied().unwrap_or_default();
            self.entry.answer(RenewalOutcome::HeldFor(least));
        } else if self.gone >= quorum.rules().too_many() {
            self.entry.answer(RenewalOutcome::NotHeld);
        }
    }
}

/// Answers of one member to these claims, in their order, and the reason why some have none.
async fn renew_at(
    at: usize,
    store: &dyn LockStore,
    claims: &[Arc<Votes>],
    clock: &Clock,
    limit: Duration,
) -> (Vec<Option<RenewalOutcome>>, Option<Error>) {
    let votes = claims.iter().map(|votes| &votes.each[at]);
    let asked: Vec<_> = votes.map(|vote| (!vote.is_stale()).then(|| vote.claim.clone())).collect();
    let batch = RenewalBatch::new(clock, asked.iter().flatten().cloned());
    let failure = bounded(at, limit, store.renew(&batch)).await.err();
    let mut answers = batch.iter().map(Renewal::outcome);
    let renewed = asked.iter().map(|asked| asked.as_ref().and_then(|_| answers.next().flatten())).collect();
    (renewed, failure)
}
