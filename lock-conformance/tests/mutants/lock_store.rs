//! The locks of a [`Mutant`].

use std::time::Duration;

use lock_conformance::async_trait;
use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Error, ErrorKind, Eviction, Finding, Guarantees, HeldBy,
    LockName, LockStore, Publisher, Realm, ReleaseOutcome, RenewalBatch, RenewalOutcome, Result, Severity, Space,
    TokenRaiser, WaitStyle,
};

use super::flaw::Flaw;
use super::mutant::{Mutant, locked};

#[async_trait]
impl LockStore for Mutant {
    fn guarantees(&self) -> Guarantees {
        match self.flaw {
            Flaw::ClaimsNoTokensAndGivesThem => {
                let mut promised = self.inner.guarantees();
                promised.tokens_survive = None;
                promised
            }
            Flaw::ClaimsToPollAndQueues => self.inner.guarantees().waiting(WaitStyle::Polled),
            _ => self.inner.guarantees(),
        }
    }

    fn realm(&self) -> Realm {
        if self.flaw == Flaw::RealmIsTheHandles { self.handle.clone() } else { self.inner.realm() }
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let is_repeated = !locked(&self.state.requested).insert(claim.holder());
        match self.flawed_attempt(claim, is_repeated).await? {
            Some(attempt) => Ok(attempt),
            None => self.attempt(claim, is_repeated).await,
        }
    }

    async fn wait(&self, claim: &Claim, waiting: &Contention) -> Result<()> {
        match self.flaw {
            Flaw::WaitsForTheEndOfTheLease | Flaw::LastComeFirstServed => std::future::pending().await,
            _ => self.inner.wait(self.shadow(claim), waiting).await,
        }
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        for (at, (entry, claim)) in batch.leases().enumerate() {
            if self.flaw == Flaw::AnswersAHundredRenewals && at >= 100 {
                return Ok(());
            }
            if let Some(answer) = self.renew_one(batch.clock(), claim).await {
                if self.flaw == Flaw::OneUnknownEntrySpoilsTheRest && answer == RenewalOutcome::NotHeld {
                    batch.iter().skip(at).for_each(|rest| rest.answer(answer));
                    return Ok(());
                }
                entry.answer(answer);
            }
        }
        Ok(())
    }

    async fn release(&self, claim: &Claim, linger: Duration) -> Result<ReleaseOutcome> {
        let shadow = self.shadow(claim);
        let by = self.inner.inspect(shadow.name(), Space::Locks).await?.pop();
        let revoked = by.as_ref().is_some_and(|by| by.revoked);
        let holds = by.is_some_and(|by| by.holder == Some(shadow.holder()));
        match self.flaw {
            Flaw::ReleaseIgnoresTheHolder => {
                let found = self.break_any_holder(shadow.name()).await?;
                return Ok(if found { ReleaseOutcome::Held } else { self.inner.release(shadow, linger).await? });
            }
            Flaw::ReleaseIsRepeatedByName => {
                let (again, name) = (self.clone(), shadow.name().clone());
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(40)).await;
                    again.break_any_holder(&name).await
                });
            }
            Flaw::EvictedHolderUnblocks if revoked => {
                self.break_any_holder(shadow.name()).await?;
            }
            Flaw::ReleaseLeavesThePlace if !holds => return Ok(ReleaseOutcome::NotHeld),
            Flaw::ReleaseOfUnclearClaimsIsIgnored if claim.is_in_doubt() => return Ok(ReleaseOutcome::NotHeld),
            Flaw::ReleaseDoesNothing if holds => return Ok(ReleaseOutcome::Held),
            Flaw::ReleaseFailsAtWhatIsNotHeld if !holds => {
                return Err(Error::refused(ErrorKind::Protocol, "it is not held"));
            }
            Flaw::ReleaseSaysHeldAlways => {
                self.inner.release(shadow, linger).await?;
                return Ok(ReleaseOutcome::Held);
            }
            Flaw::ReleaseSaysNotHeldAlways => {
                self.inner.release(shadow, linger).await?;
                return Ok(ReleaseOutcome::NotHeld);
            }
            _ => {}
        }
        let found = self.inner.release(shadow, linger).await;
        if self.flaw == Flaw::TokenRestartsOnRelease {
            locked(&self.state.tokens).remove(claim.name());
        }
        found
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, space: Space) -> Result<Vec<HeldBy>> {
        if self.flaw == Flaw::ShowsNobody {
            return Ok(Vec::new());
        }
        let by = self.inner.inspect(&self.name(name), space).await?.into_iter();
        let shown = by.filter(|by| !(self.flaw == Flaw::HidesTheRevoked && by.revoked));
        Ok(shown.map(|by| self.outer_view(by)).collect())
    }

    async fn list(&self, space: Space, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let after = after.filter(|_| self.flaw != Flaw::ListIgnoresAfter);
        let limit = if self.flaw == Flaw::ListIgnoresTheLimit { usize::MAX } else { limit };
        let mut listed = self.inner.list(space, after, limit).await?;
        match self.flaw {
            Flaw::ListIsUnordered => listed.reverse(),
            Flaw::ListLosesOne => drop(listed.pop()),
            _ => {}
        }
        let outside = |by: &HeldBy| by.holder.and_then(|holder| locked(&self.state.claims).get(&holder).cloned());
        let named = |(name, by): (LockName, Vec<HeldBy>)| {
            let name = by.iter().find_map(outside).map_or(name, |claim| claim.name().clone());
            (name, by.into_iter().map(|by| self.outer_view(by)).collect())
        };
        Ok(listed.into_iter().map(named).collect())
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let name = self.name(name);
        let mut hidden = self.inner_view(seen);
        let mut how = how;
        match self.flaw {
            Flaw::BreakIgnoresWhatWasSeen => {
                if let Some(now) = self.inner.inspect(&name, Space::Locks).await?.pop() {
                    hidden = now;
                }
            }
            Flaw::BreakDoesNothing => {
                return Ok(Some(Eviction::new(seen.clone(), seen.token.clone(), Duration::ZERO)));
            }
            Flaw::RevokeFreesAtOnce => how = BreakMode::Now,
            Flaw::NowBlocks => how = BreakMode::Revoke,
            _ => {}
        }
        let broken = self.inner.break_lock(&name, &hidden, how).await?;
        Ok(broken.map(|broken| {
            let token = match self.flaw {
                Flaw::BreakUsesUpNoToken => seen.token.clone(),
                _ => broken.token,
            };
            Eviction::new(self.outer_view(broken.evicted), token, broken.free_in)
        }))
    }

    async fn new_realm(&self) -> Result<Realm> {
        if self.flaw == Flaw::NewRealmIsTheOld { Ok(self.realm()) } else { self.inner.new_realm().await }
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        let mut findings = self.inner.diagnose().await?;
        match self.flaw {
            Flaw::DiagnosisIsEmpty => findings.clear(),
            Flaw::DiagnosisHidesWhatIsRight => findings.retain(|finding| finding.severity > Severity::Info),
            Flaw::DiagnosisFindsAnError => findings[0].severity = Severity::Error,
            Flaw::DiagnosisRepeatsACode => findings.push(findings[0].clone()),
            Flaw::DiagnosisHasAnUndocumentedCode => findings.push(Finding::info("surprise", "nobody knows")),
            Flaw::DiagnosisHasASentenceAsCode => findings[0].code = "The scope",
            Flaw::DiagnosisHasLines => findings[0].text.push_str("\nand more"),
            Flaw::DiagnosisBreaksLocks => {
                for (name, holders) in self.inner.list(Space::Locks, None, usize::MAX).await? {
                    self.inner.break_lock(&name, &holders[0], BreakMode::Now).await?;
                }
            }
            _ => {}
        }
        Ok(findings)
    }
}
