//! Releases a lease at every member.

use super::Quorum;
use crate::contract::{Claim, ReleaseOutcome};
use crate::words::{Effect, Result};

impl Quorum {
    /// Releases the claim's lease at all members, and answers by majority.
    pub(super) async fn release_everywhere(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let (votes, limit) = (self.votes(claim), self.limit(claim.ttl()));
        votes.forget();
        // To all members, including those that did not answer or refused.
        let mut answers = self.each(|at, store| {
            let vote = votes.each[at].clone();
            async move { vote.release(at, &*store?, limit).await }
        });
        let (mut held, mut not_held, mut failed) = (0, 0, Vec::new());
        while let Some((_, answer)) = answers.recv().await {
            match answer {
                Ok(ReleaseOutcome::Held) => held += 1,
                Ok(ReleaseOutcome::NotHeld) => not_held += 1,
                Err(error) => failed.push(error),
            }
            if held >= self.majority() {
                return Ok(ReleaseOutcome::Held);
            }
            if not_held >= self.rules().too_many() {
                return Ok(ReleaseOutcome::NotHeld);
            }
        }
        Err(self.too_few(held + not_held, &failed, Effect::Unknown))
    }
}
