//! [`RowDecoder`]: derives the outcome of a request from a row.

use std::time::Duration;

use lock_core::{Attempt, Claim, Contention, FencingToken, HeldBy, Lease, Retention};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use crate::pool::Reply;
use crate::realm_cache::RealmCache;
use crate::row::Row;

/// Derives the outcome of a request from a row.
#[derive(Debug)]
pub(crate) struct RowDecoder {
    pub(crate) realm: RealmCache,
    /// The server keeps every commit, also through a power loss.
    pub(crate) retains_all: bool,
    /// Poll interval of waiters; `None` if they are notified.
    pub(crate) poll_interval: Option<Duration>,
}

/// The row of a name, after a claim was granted or not.
#[derive(Debug)]
pub(crate) struct ObservedRow {
    granted: bool,
    row: Row,
    token: FencingToken,
}

impl RowDecoder {
    /// Decodes a row of a reply; `None` if it is corrupt.
    pub(crate) fn decode(&self, reply: &Reply, row: &PgRow) -> Option<ObservedRow> {
        let granted = row.try_get("granted").ok()?;
        let row = Row::read(row)?;
        Some(ObservedRow { granted, token: self.realm.token(reply, &row.realm, row.token), row })
    }

    /// The outcome for this claim; `None` if another transaction is changing the row.
    pub(crate) fn attempt(&self, claim: &Claim, seen: &ObservedRow) -> Option<Attempt> {
        let (row, is_own) = (&seen.row, seen.row.holder == Some(claim.holder()));
        if seen.granted && is_own {
            let retention = if self.retains_all { Retention::Complete } else { Retention::Since(row.up) };
            return Some(Attempt::Granted(Lease::new(claim.ttl(), Some(seen.token.clone()), retention)));
        }
        if is_own || row.holder.is_none() || row.remaining.is_zero() {
            return None;
        }
        let retry_in = self.poll_interval.map_or(row.remaining, |poll_interval| poll_interval.min(row.remaining));
        let mut by = row.held_by();
        by.token = Some(seen.token.clone());
        Some(Attempt::Held(Contention::new(by, retry_in)))
    }

    /// The holder, for people.
    pub(crate) fn held_by(&self, reply: &Reply, row: &Row) -> HeldBy {
        let mut by = row.held_by();
        by.token = Some(self.realm.token(reply, &row.realm, row.token));
        by
    }
}
