//! The renewals of a [`Mutant`].

use lock_core::{Attempt, Claim, Clock, LockStore, RenewalBatch, RenewalOutcome, Space};

use super::flaw::Flaw;
use super::mutant::{Mutant, locked};

impl Mutant {
    pub(super) async fn renew_one(&self, clock: &Clock, claim: &Claim) -> Option<RenewalOutcome> {
        let shadow = self.shadow(claim);
        match self.flaw {
            Flaw::RenewsWithoutExtending => {
                let by = self.inner.inspect(shadow.name(), Space::Locks).await.ok()?;
                let held = by.into_iter().next().is_some_and(|by| by.holder == Some(shadow.holder()));
                return Some(if held { RenewalOutcome::HeldFor(claim.ttl()) } else { RenewalOutcome::NotHeld });
            }
            Flaw::RenewsWhoeverHolds => {
                let by = self.inner.inspect(shadow.name(), Space::Locks).await.ok()?.pop()?;
                let holder = locked(&self.state.claims).get(&by.holder?).cloned()?;
                let batch = RenewalBatch::new(clock, [self.shadow(&holder).clone()]);
                _ = self.inner.renew(&batch).await;
                return batch.iter().next()?.outcome();
            }
            Flaw::RefusesRenewals => return Some(RenewalOutcome::NotHeld),
            _ => {}
        }
        let batch = RenewalBatch::new(clock, [shadow.clone()]);
        _ = self.inner.renew(&batch).await;
        let answer = batch.iter().next()?.outcome()?;
        match (self.flaw, answer) {
            (Flaw::RenewsWhatIsNotHeld, RenewalOutcome::NotHeld) => Some(RenewalOutcome::HeldFor(claim.ttl())),
            (Flaw::RenewsForLonger, RenewalOutcome::HeldFor(ttl)) => Some(RenewalOutcome::HeldFor(ttl * 2)),
            (Flaw::NeverSaysNotHeld, RenewalOutcome::NotHeld) => None,
            (Flaw::RenewalAcquires, RenewalOutcome::NotHeld) => {
                let attempt = self.inner.request(shadow).await.ok()?;
                Some(match attempt {
                    Attempt::Granted(_) => RenewalOutcome::HeldFor(claim.ttl()),
                    Attempt::Held(_) => RenewalOutcome::NotHeld,
                })
            }
            (Flaw::KeepsHalfTheTtl | Flaw::NeverExpires, RenewalOutcome::HeldFor(_)) => {
                Some(RenewalOutcome::HeldFor(claim.ttl()))
            }
            (_, answer) => Some(answer),
        }
    }
}
