//! The steps of the contract, each one check-and-act on the tables.

use std::time::Duration;

use lock_core::{
    Attempt, BreakMode, Claim, Contention, Eviction, HeldBy, Holder, Lease, LockName, RaiseOutcome, Realm,
    ReleaseOutcome, RenewalOutcome, Retention,
};

use crate::error::Failure;
use crate::row::{Row, after};
use crate::tables::Tables;

/// One check-and-act on the tables.
pub(crate) trait Step: Send + 'static {
    /// What it answers.
    type Answer: Send + 'static;

    /// The answer, if it needs no writing.
    fn look(&mut self, _tables: &mut Tables<'_>) -> Result<Option<Self::Answer>, Failure> {
        Ok(None)
    }

    /// Does it, inside a write transaction; it may be done again after that was rolled back. It refuses before it
    /// writes.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Self::Answer, Failure>;

    /// Whether a look is likely to answer it.
    fn looks(&self) -> bool {
        true
    }
}

/// Asks for a lock.
pub(crate) struct Request {
    pub(crate) claim: Claim,
    /// It was held when this claim asked before: a look will do if it still is.
    pub(crate) again: bool,
}

impl Request {
    fn held_by_another(&self, tables: &mut Tables<'_>, row: Option<&Row>) -> Result<Option<Attempt>, Failure> {
        let Some((row, held)) = row.and_then(|row| Some((row, row.held.as_ref()?))) else { return Ok(None) };
        if held.holder == self.claim.holder() {
            return Ok(None);
        }
        let by = tables.shown(held, row.token);
        let waiting = Contention::new(by, held.remaining(tables.now())).with_version(tables.seen()?);
        Ok(Some(Attempt::Held(waiting)))
    }
}

impl Step for Request {
    type Answer = Attempt;

    fn look(&mut self, tables: &mut Tables<'_>) -> Result<Option<Attempt>, Failure> {
        let row = tables.find(self.claim.name())?;
        self.held_by_another(tables, row.as_ref())
    }

    fn looks(&self) -> bool {
        self.again
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Attempt, Failure> {
        let (name, holder, ttl) = (self.claim.name(), self.claim.holder(), self.claim.ttl());
        let row = tables.find(name)?;
        if let Some(held) = self.held_by_another(tables, row.as_ref())? {
            return Ok(held);
        }
        let token = match &row {
            Some(row) if row.is_held_by(holder) => {
                tables.extend(name, holder, ttl)?;
                row.token
            }
            row => tables.grant(name, row.as_ref(), holder, after(tables.now(), ttl), self.claim.info())?,
        };
        Ok(Attempt::Granted(Lease::new(ttl, Some(tables.token(token)), Retention::Complete)))
    }
}

/// Renews many leases; the answers are in their order.
pub(crate) struct Renew(pub(crate) Vec<(LockName, Holder, Duration)>);

impl Step for Renew {
    type Answer = Vec<RenewalOutcome>;

    fn looks(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Vec<RenewalOutcome>, Failure> {
        self.0
            .iter()
            .map(|(name, holder, ttl)| {
                let held = tables.extend(name, *holder, *ttl)?;
                Ok(if held { RenewalOutcome::HeldFor(*ttl) } else { RenewalOutcome::NotHeld })
            })
            .collect()
    }
}

/// Gives back what a claim holds.
pub(crate) struct Release {
    pub(crate) name: LockName,
    pub(crate) holder: Holder,
}

impl Step for Release {
    type Answer = ReleaseOutcome;

    fn looks(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<ReleaseOutcome, Failure> {
        match tables.find(&self.name)? {
            Some(row) if row.is_held_by(self.holder) => {
                tables.free(&self.name, row.token)?;
                Ok(ReleaseOutcome::Held)
            }
            _ => Ok(ReleaseOutcome::NotHeld),
        }
    }
}

/// Raises the token of a lease.
pub(crate) struct RaiseToken {
    pub(crate) name: LockName,
    pub(crate) holder: Holder,
    pub(crate) number: i64,
}

impl Step for RaiseToken {
    type Answer = RaiseOutcome;

    fn looks(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<RaiseOutcome, Failure> {
        match tables.find(&self.name)? {
            Some(row) if row.is_held_by(self.holder) && row.token <= self.number => {
                if row.token < self.number {
                    tables.raise(&self.name, self.number)?;
                }
                Ok(RaiseOutcome::Raised)
            }
            _ => Ok(RaiseOutcome::Refused),
        }
    }
}

/// Says who holds a lock.
pub(crate) struct Inspect(pub(crate) LockName);

impl Step for Inspect {
    type Answer = Option<HeldBy>;

    fn look(&mut self, tables: &mut Tables<'_>) -> Result<Option<Option<HeldBy>>, Failure> {
        self.apply(tables).map(Some)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Option<HeldBy>, Failure> {
        let row = tables.find(&self.0)?;
        Ok(row.and_then(|row| Some(tables.shown(row.held.as_ref()?, row.token))))
    }
}

/// Lists held locks by name.
pub(crate) struct List {
    pub(crate) after: Option<LockName>,
    pub(crate) limit: usize,
}

impl Step for List {
    type Answer = Vec<(LockName, HeldBy)>;

    fn look(&mut self, tables: &mut Tables<'_>) -> Result<Option<Self::Answer>, Failure> {
        self.apply(tables).map(Some)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Self::Answer, Failure> {
        let after = self.after.as_ref().map_or("", LockName::as_str);
        let rows = tables.list(after, i64::try_from(self.limit).unwrap_or(i64::MAX))?;
        let shown = |(name, row): (LockName, Row)| Some((name, tables.shown(row.held.as_ref()?, row.token)));
        Ok(rows.into_iter().filter_map(shown).collect())
    }
}

/// Ends the lease of the holder that was seen.
pub(crate) struct BreakLock {
    pub(crate) name: LockName,
    pub(crate) holder: Holder,
    pub(crate) how: BreakMode,
}

impl Step for BreakLock {
    type Answer = Option<Eviction>;

    fn looks(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Option<Eviction>, Failure> {
        let row = tables.find(&self.name)?;
        let Some((row, held)) = row.as_ref().and_then(|row| Some((row, row.held.as_ref()?))) else { return Ok(None) };
        if held.holder != self.holder {
            return Ok(None);
        }
        // A token is used up either way, so that a fence that is raised to it refuses the evicted holder.
        let token = row.next_token()?;
        let evicted = tables.shown(held, row.token);
        let free_in = match self.how {
            BreakMode::Revoke => {
                tables.revoke(&self.name, token)?;
                held.remaining(tables.now())
            }
            BreakMode::Now => {
                tables.free(&self.name, token)?;
                Duration::ZERO
            }
        };
        Ok(Some(Eviction::new(evicted, Some(tables.token(token)), free_in)))
    }
}

/// Begins a new realm.
pub(crate) struct NewRealm;

impl Step for NewRealm {
    type Answer = Realm;

    fn looks(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Realm, Failure> {
        tables.begin_realm()
    }
}
