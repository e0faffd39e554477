//! The tokens and records of a [`Mutant`] as a member of a quorum.

use std::sync::atomic::Ordering;

use lock_conformance::async_trait;
use lock_core::{
    Claim, Clock, FencingToken, LockStore, RaiseOutcome, RecordStore, RenewalBatch, Result, Space, StoredRecord,
    TokenRaiser,
};

use super::flaw::Flaw;
use super::mutant::{Mutant, locked};

impl Mutant {
    /// Shows the lease of this claim with this token from now on.
    fn set_token(&self, claim: &Claim, number: u64) {
        if let Some((_, token)) = locked(&self.state.granted).get_mut(&claim.holder()) {
            *token = Some(FencingToken::new(self.realm(), number));
        }
    }

    /// The outcome of a flaw that decides it by itself; `None` for all others.
    async fn flawed_raise(&self, claim: &Claim, number: u64) -> Result<Option<RaiseOutcome>> {
        let shadow = self.shadow(claim);
        let holder = self.holder_of(shadow).await?;
        let holds = holder.as_ref().is_some_and(|holder| holder.holder() == claim.holder());
        match self.flaw {
            Flaw::RaiseLowersTheToken if holds => {
                self.set_token(claim, number);
                return Ok(Some(RaiseOutcome::Raised));
            }
            Flaw::RaiseLowersTheCounter if holds => {
                let granted = locked(&self.state.granted);
                let numbers = granted.values().filter_map(|(_, token)| Some(token.as_ref()?.number()));
                let highest = numbers.max().unwrap_or(number).max(number);
                drop(granted);
                self.state.count.store(highest - number, Ordering::SeqCst);
                self.set_token(claim, number);
                return Ok(Some(RaiseOutcome::Raised));
            }
            Flaw::RaiseLeavesTheCounter if holds && number < u64::MAX => {
                self.set_token(claim, number);
                return Ok(Some(RaiseOutcome::Raised));
            }
            Flaw::RaisesWhoeverHolds => {
                if let Some(holder) = holder {
                    let raised = self.inner.raise(self.shadow(&holder), number).await?;
                    self.set_token(&holder, number);
                    return Ok(Some(raised));
                }
            }
            Flaw::RaiseAcquires if holder.is_none() => {
                self.request_inner(claim).await?;
            }
            Flaw::RaisesBeyondTheEnd if holds && number == u64::MAX => return Ok(Some(RaiseOutcome::Raised)),
            _ => {}
        }
        Ok(None)
    }

    async fn holder_of(&self, shadow: &Claim) -> Result<Option<Claim>> {
        let by = self.inner.inspect(shadow.name(), Space::Locks).await?;
        Ok(by.into_iter().next().and_then(|by| locked(&self.state.claims).get(&by.holder?).cloned()))
    }
}

#[async_trait]
impl TokenRaiser for Mutant {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        let shadow = self.shadow(claim);
        if let Some(outcome) = self.flawed_raise(claim, number).await? {
            return Ok(outcome);
        }
        let before = locked(&self.state.granted).get(&claim.holder()).and_then(|(_, token)| token.clone());
        let raised = self.inner.raise(shadow, number).await?;
        if raised == RaiseOutcome::Raised {
            self.set_token(claim, number);
        }
        match self.flaw {
            Flaw::RaiseSaysRaisedAlways => return Ok(RaiseOutcome::Raised),
            Flaw::RaiseRefusesTheSame if before.is_some_and(|token| token.number() == number) => {
                return Ok(RaiseOutcome::Refused);
            }
            Flaw::RaiseRenews => {
                let batch = RenewalBatch::new(&Clock::system(), [shadow.clone()]);
                _ = self.inner.renew(&batch).await;
            }
            _ => {}
        }
        Ok(raised)
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for Mutant {
    async fn read_record(&self) -> Result<StoredRecord> {
        let mut kept = self.inner.read_record().await?;
        match self.flaw {
            Flaw::KeepForgets => kept.text = None,
            Flaw::KeepIsTheHandles => kept.text = locked(&self.state.records).get(&self.handle).cloned(),
            _ => {}
        }
        Ok(kept)
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        match self.flaw {
            Flaw::KeepIgnoresWhatWas => {
                let before = self.inner.read_record().await?;
                self.inner.replace_record(&before, text).await
            }
            Flaw::KeepIgnoresTheRealm => {
                let realm = self.inner.realm();
                self.inner.replace_record(&StoredRecord { realm, ..before.clone() }, text).await
            }
            Flaw::KeepRefusesTheSame => {
                let now = self.inner.read_record().await?;
                Ok(now.text.as_deref() != Some(text) && self.inner.replace_record(before, text).await?)
            }
            Flaw::KeepIsTheHandles => {
                locked(&self.state.records).insert(self.handle.clone(), text.to_owned());
                Ok(true)
            }
            _ => self.inner.replace_record(before, text).await,
        }
    }
}
