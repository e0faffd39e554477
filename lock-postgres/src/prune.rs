//! [`Pruning`]: removing the rows of names that nobody locks any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Holder, Result};
use sqlx::Row as _;

use crate::error::Failed;
use crate::link::Link;
use crate::pool::Lent;
use crate::row::to_micros;
use crate::sql::Sql;
use crate::statement::Value;
use crate::{PostgresConfig, error};

/// Removing the rows of names that nobody has locked for a while, in small steps along the names.
///
/// Every new name may bring a step, by chance, from where the last one of any process ended: so it goes on with processes
/// that live for one lock only, and ten rows are looked at for each that comes. A whole walk is for an operator to ask for.
#[derive(Debug)]
pub(crate) struct Pruning {
    sql: Arc<Sql>,
    /// For how long nobody has locked what is removed.
    idle: Duration,
    /// The last step failed, and that was said.
    fails: AtomicBool,
}

/// So many rows are looked at in one step: it takes milliseconds.
const STEP: i64 = 1_000;
/// One of so many new names brings a step.
const CHANCE: u128 = 100;

impl Pruning {
    pub(crate) fn new(sql: &Arc<Sql>, config: &PostgresConfig) -> Pruning {
        Pruning { sql: sql.clone(), idle: config.prune_after, fails: AtomicBool::new(false) }
    }

    /// Perhaps one step, after `added` names got their first row.
    pub(crate) async fn by_chance(&self, connection: &mut Lent, added: usize) {
        let is_due = (0..added).any(|_| Holder::fresh().as_u128().is_multiple_of(CHANCE));
        if !is_due || self.idle.is_zero() {
            return;
        }
        let values = [Value::Number(to_micros(self.idle)), Value::Number(STEP)];
        match connection.run(&self.sql.prune_on, &values).await {
            Ok(_) => self.fails.store(false, Ordering::Relaxed),
            Err(Failed { error, .. }) if !self.fails.swap(true, Ordering::Relaxed) => {
                tracing::warn!(target: "leasehold", store = "postgres", %error,
                    "removing old rows failed, and is tried again with new names; until it succeeds the table grows");
            }
            Err(Failed { error, .. }) => {
                tracing::debug!(target: "leasehold", store = "postgres", %error, "removing old rows failed again");
            }
        }
    }

    /// All that nobody has locked for `idle`, step by step; gives how many rows were removed.
    pub(crate) async fn walk(&self, link: &Link, idle: Duration) -> Result<u64> {
        let (mut after, mut removed) = (String::new(), 0);
        loop {
            let values = [Value::Number(to_micros(idle)), Value::Number(STEP), Value::Text(after)];
            let answer = link.run(&self.sql.prune, &values).await?;
            let odd = || error::odd(&answer.to, self.sql.prune.doing);
            let row = answer.rows.first().ok_or_else(odd)?;
            removed += row.try_get::<i64, _>("removed").map_err(|_| odd())?.unsigned_abs();
            after = row.try_get("last").map_err(|_| odd())?;
            if after.is_empty() {
                return Ok(removed);
            }
        }
    }
}
