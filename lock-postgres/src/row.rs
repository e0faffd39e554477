//! [`Row`]: what the table keeps for one name.

use std::time::Duration;

use lock_core::{HeldBy, Holder, HolderInfo, LockName};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

/// What the table keeps for one name, as a statement showed it.
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
    /// How long the server has run.
    pub(crate) up: Duration,
}

impl Row {
    /// Reads what every statement shows of a row; `None` if it is none that we wrote.
    pub(crate) fn read(row: &PgRow) -> Option<Row> {
        let holder: Option<String> = row.try_get("holder").ok()?;
        let info: Option<String> = row.try_get("info").ok()?;
        let micros = |name: &str| Some(micros(row.try_get::<Option<i64>, _>(name).ok()?.unwrap_or_default()));
        Some(Row {
            holder: holder.map(|holder| holder.parse()).transpose().ok()?,
            token: u64::try_from(row.try_get::<i64, _>("token").ok()?).ok()?,
            // It is for people and decides nothing, so that one that cannot be read is left out.
            info: info.and_then(|info| serde_json::from_str(&info).ok()),
            revoked: row.try_get("revoked").ok()?,
            held_for: micros("held_for")?,
            remaining: micros("remaining")?,
            realm: row.try_get("realm").ok()?,
            up: micros("up")?,
        })
    }

    /// As [`Row::read`], with the name that it is kept for.
    pub(crate) fn named(row: &PgRow) -> Option<(LockName, Row)> {
        let name: String = row.try_get("name").ok()?;
        Some((LockName::new(name).ok()?, Row::read(row)?))
    }

    /// What people see of its holder. The token is put in by who knows the realm.
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

/// A time as the table counts it; what is shorter than its unit is one unit, and what is longer than a thousand years is
/// that.
pub(crate) fn to_micros(time: Duration) -> i64 {
    const LONGEST: i64 = 1_000 * 366 * 86_400 * 1_000_000;
    i64::try_from(time.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST)
}
