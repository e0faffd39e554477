//! [`Row`]: the row of one name.

use std::time::Duration;

use lock_core::{HeldBy, Holder, HolderInfo, LockName};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// The row of one name, as a statement returned it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) holder: Option<Holder>,
    pub(crate) token: u64,
    pub(crate) info: Option<HolderInfo>,
    pub(crate) revoked: bool,
    held_for: Duration,
    /// Zero if the lease has ended.
    pub(crate) remaining: Duration,
    pub(crate) realm: String,
    /// Time since the server's start.
    pub(crate) up: Duration,
}

impl Row {
    /// Decodes the columns that every statement returns; `None` if they are corrupt.
    pub(crate) fn read(row: &PgRow) -> Option<Row> {
        let holder: Option<String> = row.try_get("holder").ok()?;
        let info: Option<String> = row.try_get("info").ok()?;
        let micros = |name: &str| Some(micros(row.try_get::<Option<i64>, _>(name).ok()?.unwrap_or_default()));
        Some(Row {
            holder: holder.map(|holder| holder.parse()).transpose().ok()?,
            token: u64::try_from(row.try_get::<i64, _>("token").ok()?).ok()?,
            // It is for people and decides nothing: one that cannot be parsed is left out.
            info: info.and_then(|info| serde_json::from_str(&info).ok()),
            revoked: row.try_get("revoked").ok()?,
            held_for: micros("held_for")?,
            remaining: micros("remaining")?,
            realm: row.try_get("realm").ok()?,
            up: micros("up")?,
        })
    }

    /// As [`Row::read`], with the name of the lock.
    pub(crate) fn named(row: &PgRow) -> Option<(LockName, Row)> {
        let name: String = row.try_get("name").ok()?;
        Some((LockName::new(name).ok()?, Row::read(row)?))
    }

    /// The holder, for people. The caller, who knows the realm, adds the token.
    pub(crate) fn held_by(&self) -> HeldBy {
        let mut by = self.holder.map(HeldBy::holder).unwrap_or_default();
        by.info = self.info.clone();
        by.held_for = Some(self.held_for);
        by.remaining = Some(self.remaining);
        by.revoked = self.revoked;
        by
    }
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// A time in microseconds, the unit of the table: at least one, and at most a thousand years.
pub(crate) fn to_micros(time: Duration) -> i64 {
    const MAX_MICROS: i64 = 1_000 * 366 * 86_400 * 1_000_000;
    i64::try_from(time.as_micros()).unwrap_or(MAX_MICROS).clamp(1, MAX_MICROS)
}
