//! [`Op`]: the operations of the contract. Each checks and acts in one transaction.

use std::time::Duration;

use lock_core::kit::Priority;
use lock_core::{
    Attempt, BreakMode, Claim, Contention, Eviction, HeldBy, Holder, Lease, LockName, RaiseOutcome, Realm,
    ReleaseOutcome, RenewalOutcome, Retention,
};

use crate::error::OpError;
use crate::row::{Row, deadline_after};
use crate::tables::Tables;

/// An operation that checks and acts in one transaction.
pub(crate) trait Op: Send + 'static {
    /// The result for the caller.
    type Outcome: Send + 'static;

    /// The outcome, if it needs no writing.
    fn read_only(&mut self, _tables: &mut Tables<'_>) -> Result<Option<Self::Outcome>, OpError> {
        Ok(None)
    }

    /// Runs inside a write transaction; it may run again after a rollback. A refusal comes before
    /// any write.
    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Self::Outcome, OpError>;

    /// True if reading is likely to be enough.
    fn may_read_only(&self) -> bool {
        true
    }

    /// Its place in the queue.
    fn priority(&self) -> Priority {
        Priority::Normal
    }
}

/// Requests a lock.
pub(crate) struct Request {
    pub(crate) claim: Claim,
    /// The lock was held at the last request of this claim: reading is enough if it still is.
    pub(crate) was_held: bool,
}

impl Request {
    fn held_by_another(&self, tables: &mut Tables<'_>, row: Option<&Row>) -> Result<Option<Attempt>, OpError> {
        let Some((row, held)) = row.and_then(|row| Some((row, row.held.as_ref()?))) else { return Ok(None) };
        if held.holder == self.claim.holder() {
            return Ok(None);
        }
        let by = tables.held_by(held, row.token);
        let waiting = Contention::new(by, held.remaining(tables.now())).with_version(tables.version()?);
        Ok(Some(Attempt::Held(waiting)))
    }
}

impl Op for Request {
    type Outcome = Attempt;

    fn read_only(&mut self, tables: &mut Tables<'_>) -> Result<Option<Attempt>, OpError> {
        let row = tables.find(self.claim.name())?;
        self.held_by_another(tables, row.as_ref())
    }

    fn may_read_only(&self) -> bool {
        self.was_held
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Attempt, OpError> {
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
            row => tables.grant(name, row.as_ref(), holder, deadline_after(tables.now(), ttl), self.claim.info())?,
        };
        Ok(Attempt::Granted(Lease::new(ttl, Some(tables.token(token)), Retention::Complete)))
    }
}

/// Renews many leases; the outcomes are in the same order.
pub(crate) struct Renew(pub(crate) Vec<(LockName, Holder, Duration)>);

impl Op for Renew {
    type Outcome = Vec<RenewalOutcome>;

    fn may_read_only(&self) -> bool {
        false
    }

    /// A held lock must not wait for a crowd of requests.
    fn priority(&self) -> Priority {
        Priority::Urgent
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Vec<RenewalOutcome>, OpError> {
        self.0
            .iter()
            .map(|(name, holder, ttl)| {
                let held = tables.extend(name, *holder, *ttl)?;
                Ok(if held { RenewalOutcome::HeldFor(*ttl) } else { RenewalOutcome::NotHeld })
            })
            .collect()
    }
}

/// Releases the lock of a holder.
pub(crate) struct Release {
    pub(crate) name: LockName,
    pub(crate) holder: Holder,
}

impl Op for Release {
    type Outcome = ReleaseOutcome;

    fn may_read_only(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<ReleaseOutcome, OpError> {
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

impl Op for RaiseToken {
    type Outcome = RaiseOutcome;

    fn may_read_only(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<RaiseOutcome, OpError> {
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

/// Reads the holder of a lock.
pub(crate) struct Inspect(pub(crate) LockName);

impl Op for Inspect {
    type Outcome = Option<HeldBy>;

    fn read_only(&mut self, tables: &mut Tables<'_>) -> Result<Option<Option<HeldBy>>, OpError> {
        self.apply(tables).map(Some)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Option<HeldBy>, OpError> {
        let row = tables.find(&self.0)?;
        Ok(row.and_then(|row| Some(tables.held_by(row.held.as_ref()?, row.token))))
    }
}

/// Lists held locks by name.
pub(crate) struct List {
    pub(crate) after: Option<LockName>,
    pub(crate) limit: usize,
}

impl Op for List {
    type Outcome = Vec<(LockName, Vec<HeldBy>)>;

    fn read_only(&mut self, tables: &mut Tables<'_>) -> Result<Option<Self::Outcome>, OpError> {
        self.apply(tables).map(Some)
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Self::Outcome, OpError> {
        let after = self.after.as_ref().map_or("", LockName::as_str);
        let rows = tables.list(after, i64::try_from(self.limit).unwrap_or(i64::MAX))?;
        let held_by = |(name, row): (LockName, Row)| Some((name, vec![tables.held_by(row.held.as_ref()?, row.token)]));
        Ok(rows.into_iter().filter_map(held_by).collect())
    }
}

/// Ends the lease of the holder that was seen.
pub(crate) struct BreakLock {
    pub(crate) name: LockName,
    pub(crate) holder: Holder,
    pub(crate) how: BreakMode,
}

impl Op for BreakLock {
    type Outcome = Option<Eviction>;

    fn may_read_only(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Option<Eviction>, OpError> {
        let row = tables.find(&self.name)?;
        let Some((row, held)) = row.as_ref().and_then(|row| Some((row, row.held.as_ref()?))) else { return Ok(None) };
        if held.holder != self.holder {
            return Ok(None);
        }
        // A token is used up either way, so that a fence that is raised to it refuses the evicted
        // holder.
        let token = row.next_token()?;
        let evicted = tables.held_by(held, row.token);
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

impl Op for NewRealm {
    type Outcome = Realm;

    fn may_read_only(&self) -> bool {
        false
    }

    fn apply(&mut self, tables: &mut Tables<'_>) -> Result<Realm, OpError> {
        tables.start_realm()
    }
}
