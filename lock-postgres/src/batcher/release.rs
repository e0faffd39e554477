//! [`ReleaseSender`]: sends a batch of releases.

use std::sync::Arc;

use lock_core::{ReleaseOutcome, Result};
use sqlx::Row as _;
use tokio::sync::Semaphore;

use super::queue::{PendingRelease, entry_of, reject};
use crate::database::Database;
use crate::error::{self, StepError};
use crate::pool::PooledConnection;
use crate::statement::{Statement, Value};
use crate::statements::Statements;

/// Sends batches of releases.
#[derive(Debug)]
pub(super) struct ReleaseSender {
    database: Arc<Database>,
    statements: Arc<Statements>,
    channel: String,
    /// Statements that wait for rows that other transactions have locked run one after the other.
    blocking: Semaphore,
}

impl ReleaseSender {
    pub(super) fn new(database: &Arc<Database>, statements: &Arc<Statements>) -> ReleaseSender {
        ReleaseSender {
            channel: database.config().table.channel(),
            database: database.clone(),
            statements: statements.clone(),
            blocking: Semaphore::new(1),
        }
    }

    /// Releases all of these locks; those whose rows are locked follow in a task that waits for
    /// them.
    pub(super) async fn send(self: &Arc<Self>, connection: &mut PooledConnection, releases: Vec<PendingRelease>) {
        let statement = match releases.len() {
            1 => &self.statements.release,
            _ => &self.statements.release_batch,
        };
        let locked = self.release(connection, statement, releases).await;
        if !locked.is_empty() {
            tokio::spawn(self.clone().send_blocking(locked));
        }
    }

    /// Releases these locks; returns those whose rows another transaction has locked.
    async fn release(
        &self,
        connection: &mut PooledConnection,
        statement: &Statement,
        releases: Vec<PendingRelease>,
    ) -> Vec<PendingRelease> {
        let (mut parts, mut locked) = (vec![releases], Vec::new());
        while let Some(mut part) = parts.pop() {
            match self.run(connection, statement, &part).await {
                Ok(outcomes) => {
                    for ((claim, sender), outcome) in part.into_iter().zip(outcomes) {
                        match outcome {
                            Some(outcome) => drop(sender.send(outcome)),
                            None => locked.push((claim, sender)),
                        }
                    }
                }
                // The batch was rolled back: each half is sent by itself.
                Err(failed) if failed.may_concern_one_entry && part.len() > 1 => {
                    let rest = part.split_off(part.len() / 2);
                    parts.extend([rest, part]);
                }
                Err(failed) => reject(part, &failed.error),
            }
        }
        locked
    }

    /// The outcome of each release; `None`: its row is locked.
    async fn run(
        &self,
        connection: &mut PooledConnection,
        statement: &Statement,
        releases: &[PendingRelease],
    ) -> Result<Vec<Option<Result<ReleaseOutcome>>>, StepError> {
        let reply = connection.run(statement, &self.values(statement, releases)).await?;
        let unexpected = || StepError::for_all(error::unexpected_reply(&reply.server, statement.action));
        // If the statement was sent twice, a missing row may be the effect of the first time.
        let not_held = || match reply.was_resent {
            true => Err(error::in_doubt(&reply.server, statement.action)),
            false => Ok(ReleaseOutcome::NotHeld),
        };
        let mut outcomes: Vec<_> = releases.iter().map(|_| Some(not_held())).collect();
        for row in &reply.rows {
            let held = row.try_get::<Option<bool>, _>("held").map_err(|_| unexpected())?;
            let is_locked = row.try_get::<bool, _>("locked").map_err(|_| unexpected())?;
            let outcome = entry_of(row, &mut outcomes).ok_or_else(unexpected)?;
            match held {
                _ if is_locked => *outcome = None,
                Some(true) => *outcome = Some(Ok(ReleaseOutcome::Held)),
                Some(false) => *outcome = Some(Ok(ReleaseOutcome::NotHeld)),
                None => {}
            }
        }
        Ok(outcomes)
    }

    fn values(&self, statement: &Statement, releases: &[PendingRelease]) -> Vec<Value> {
        match releases {
            [(claim, _)] if statement.sql == self.statements.release.sql => {
                vec![Value::text(claim.name()), Value::text(claim.holder()), Value::text(&self.channel)]
            }
            releases => vec![
                Value::Texts(releases.iter().map(|(claim, _)| claim.name().to_string()).collect()),
                Value::Texts(releases.iter().map(|(claim, _)| claim.holder().to_string()).collect()),
                Value::text(&self.channel),
            ],
        }
    }

    /// Releases these locks, waiting for the transactions that have locked their rows.
    async fn send_blocking(self: Arc<Self>, locked: Vec<PendingRelease>) {
        // The semaphore is never closed.
        let _permit = self.blocking.acquire().await;
        let connection = match self.database.steps() {
            Ok(pool) => pool.acquire().await,
            Err(error) => Err(error),
        };
        match connection {
            Ok(mut connection) => {
                self.release(&mut connection, &self.statements.release_blocking, locked).await;
            }
            Err(error) => reject(locked, &error),
        }
    }
}
