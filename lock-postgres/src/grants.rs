//! [`Grants`]: from what a row says to what a claim has.

use std::time::Duration;

use lock_core::{Attempt, Claim, Contention, FencingToken, HeldBy, Lease, Retention};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::pool::Answer;
use crate::realms::Realms;
use crate::row::Row;

/// From what a row says to what a claim has.
#[derive(Debug)]
pub(crate) struct Grants {
    pub(crate) realms: Realms,
    /// The server keeps every write.
    pub(crate) remembers_all: bool,
    /// How soon a waiter looks again that cannot be told.
    pub(crate) polls: Option<Duration>,
}

/// What is seen of a name, after a claim was granted or not.
#[derive(Debug)]
pub(crate) struct Seen {
    granted: bool,
    row: Row,
    token: FencingToken,
}

impl Grants {
    /// What a row of an answer says; `None` if it is none that we wrote.
    pub(crate) fn read(&self, answer: &Answer, row: &PgRow) -> Option<Seen> {
        let granted = row.try_get("granted").ok()?;
        let row = Row::read(row)?;
        Some(Seen { granted, token: self.realms.token(answer, &row.realm, row.token), row })
    }

    /// What this claim has by that; `None` if another transaction is at work on the row.
    pub(crate) fn attempt(&self, claim: &Claim, seen: &Seen) -> Option<Attempt> {
        let (row, is_own) = (&seen.row, seen.row.holder == Some(claim.holder()));
        if seen.granted && is_own {
            let remembers = if self.remembers_all { Retention::Complete } else { Retention::Since(row.up) };
            return Some(Attempt::Granted(Lease::new(claim.ttl(), Some(seen.token.clone()), remembers)));
        }
        if is_own || row.holder.is_none() || row.remaining.is_zero() {
            return None;
        }
        let look_again = self.polls.map_or(row.remaining, |polls| polls.min(row.remaining));
        let mut by = row.shown();
        by.token = Some(seen.token.clone());
        Some(Attempt::Held(Contention::new(by, look_again)))
    }

    /// What people see of the holder.
    pub(crate) fn shown(&self, answer: &Answer, row: &Row) -> HeldBy {
        let mut by = row.shown();
        by.token = Some(self.realms.token(answer, &row.realm, row.token));
        by
    }
}
