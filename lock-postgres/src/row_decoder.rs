//! [`RowDecoder`]: from what a row says to what a claim has.

use std::time::Duration;

use lock_core::{Attempt, Claim, Contention, FencingToken, HeldBy, Lease, Retention};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::pool::Reply;
use crate::realm_cache::RealmCache;
use crate::row::Row;

/// From what a row says to what a claim has.
#[derive(Debug)]
pub(crate) struct RowDecoder {
    pub(crate) realm: RealmCache,
    /// The server keeps every write.
    pub(crate) retains_all: bool,
    /// How soon a waiter looks again that cannot be told.
    pub(crate) poll_interval: Option<Duration>,
}

/// What is seen of a name, after a claim was granted or not.
#[derive(Debug)]
pub(crate) struct ObservedRow {
    granted: bool,
    row: Row,
    token: FencingToken,
}

impl RowDecoder {
    /// What a row of an answer says; `None` if it is none that we wrote.
    pub(crate) fn decode(&self, reply: &Reply, row: &PgRow) -> Option<ObservedRow> {
        let granted = row.try_get("granted").ok()?;
        let row = Row::read(row)?;
        Some(ObservedRow { granted, token: self.realm.token(reply, &row.realm, row.token), row })
    }

    /// What this claim has by that; `None` if another transaction is at work on the row.
    pub(crate) fn attempt(&self, claim: &Claim, seen: &ObservedRow) -> Option<Attempt> {
        let (row, is_own) = (&seen.row, seen.row.holder == Some(claim.holder()));
        if seen.granted && is_own {
            let retention = if self.retains_all { Retention::Complete } else { Retention::Since(row.up) };
            return Some(Attempt::Granted(Lease::new(claim.ttl(), Some(seen.token.clone()), retention)));
        }
        if is_own || row.holder.is_none() || row.remaining.is_zero() {
            return None;
        }
        let look_again = self.poll_interval.map_or(row.remaining, |poll_interval| poll_interval.min(row.remaining));
        let mut by = row.held_by();
        by.token = Some(seen.token.clone());
        Some(Attempt::Held(Contention::new(by, look_again)))
    }

    /// What people see of the holder.
    pub(crate) fn held_by(&self, reply: &Reply, row: &Row) -> HeldBy {
        let mut by = row.held_by();
        by.token = Some(self.realm.token(reply, &row.realm, row.token));
        by
    }
}
