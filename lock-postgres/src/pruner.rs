//! [`Pruner`]: removes the rows of names that nobody locks any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Result, random};
use sqlx::Row as _;

use crate::config::PostgresConfig;
use crate::database::Database;
use crate::error::{self, StepError};
use crate::pool::PooledConnection;
use crate::row::to_micros;
use crate::statement::Value;
use crate::statements::Statements;

/// Removes the rows of names that nobody has locked for a while, in small steps along the names.
///
/// Each new name triggers a step by chance. It starts where the last step of any process ended, so
/// that pruning advances also with processes that live for one lock only; on average ten rows are
/// visited for each new name. An operator can ask for a whole pass.
#[derive(Debug)]
pub(crate) struct Pruner {
    sql: Arc<Statements>,
    /// Time without a lock after which a row is removed.
    idle: Duration,
    /// The last step failed, and the warning was logged.
    is_failing: AtomicBool,
}

/// Number of rows that one step visits: it takes milliseconds.
const PRUNE_BATCH_ROWS: i64 = 1_000;
/// Number of new names per step, on average.
const NEW_NAMES_PER_PRUNE: u128 = 100;

impl Pruner {
    pub(crate) fn new(sql: &Arc<Statements>, config: &PostgresConfig) -> Pruner {
        Pruner { sql: sql.clone(), idle: config.prune_after, is_failing: AtomicBool::new(false) }
    }

    /// Runs one step by chance, after `added` names got their first row.
    pub(crate) async fn maybe_prune(&self, connection: &mut PooledConnection, added: usize) {
        let is_due = (0..added).any(|_| random::bits128().is_multiple_of(NEW_NAMES_PER_PRUNE));
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

    /// Removes all rows of names that nobody has locked for `idle`, step by step; returns how many.
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
