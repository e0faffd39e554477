//! [`Pruner`]: removing the rows of names that nobody locks any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Holder, Result};
use sqlx::Row as _;

use crate::config::PostgresConfig;
use crate::database::Database;
use crate::error::{self, StepError};
use crate::pool::PooledConnection;
use crate::row::to_micros;
use crate::statement::Value;
use crate::statements::Statements;

/// Removing the rows of names that nobody has locked for a while, in small steps along the names.
///
/// Every new name may bring a step, by chance, from where the last one of any process ended: so it goes on with processes
/// that live for one lock only, and ten rows are looked at for each that comes. A whole walk is for an operator to ask for.
#[derive(Debug)]
pub(crate) struct Pruner {
    sql: Arc<Statements>,
    /// For how long nobody has locked what is removed.
    idle: Duration,
    /// The last step failed, and that was said.
    is_failing: AtomicBool,
}

/// So many rows are looked at in one step: it takes milliseconds.
const PRUNE_BATCH_ROWS: i64 = 1_000;
/// One of so many new names brings a step.
const NEW_NAMES_PER_PRUNE: u128 = 100;

impl Pruner {
    pub(crate) fn new(sql: &Arc<Statements>, config: &PostgresConfig) -> Pruner {
        Pruner { sql: sql.clone(), idle: config.prune_after, is_failing: AtomicBool::new(false) }
    }

    /// Perhaps one step, after `added` names got their first row.
    pub(crate) async fn maybe_prune(&self, connection: &mut PooledConnection, added: usize) {
        let is_due = (0..added).any(|_| Holder::fresh().as_u128().is_multiple_of(NEW_NAMES_PER_PRUNE));
        if !is_due || self.idle.is_zero() {
            return;
        }
        let values = [Value::Number(to_micros(self.idle)), Value::Number(PRUNE_BATCH_ROWS)];
        match connection.run(&self.sql.prune_next, &values).await {
            Ok(_) => self.is_failing.store(false, Ordering::Relaxed),
            Err(StepError { error, .. }) if !self.is_failing.swap(true, Ordering::Relaxed) => {
                tracing::warn!(target: "leasehold", store = "postgres", %error,
                    "removing old rows failed, and is tried again with new names; until it succeeds the table grows");
            }
            Err(StepError { error, .. }) => {
                tracing::debug!(target: "leasehold", store = "postgres", %error, "removing old rows failed again");
            }
        }
    }

    /// All that nobody has locked for `idle`, step by step; gives how many rows were removed.
    pub(crate) async fn prune_all(&self, database: &Database, idle: Duration) -> Result<u64> {
        let (mut after, mut removed) = (String::new(), 0);
        loop {
            let values = [Value::Number(to_micros(idle)), Value::Number(PRUNE_BATCH_ROWS), Value::Text(after)];
            let reply = database.run(&self.sql.prune, &values).await?;
            let unexpected = || error::unexpected_reply(&reply.server, self.sql.prune.action);
            let row = reply.rows.first().ok_or_else(unexpected)?;
            removed += row.try_get::<i64, _>("removed").map_err(|_| unexpected())?.unsigned_abs();
            after = row.try_get("last").map_err(|_| unexpected())?;
            if after.is_empty() {
                return Ok(removed);
            }
        }
    }
}
