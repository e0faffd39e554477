//! Reading and breaking locks: the steps for operators.

use std::time::Duration;

use lock_core::{BreakMode, Effect, Error, ErrorKind, Eviction, HeldBy, Holder, LockName, Result};
use sqlx::Row as _;

use super::store::AdvisoryStore;
use crate::error;
use crate::key::AdvisoryKey;
use crate::pool::Reply;
use crate::row::Row;
use crate::statement::Value;

/// Maximum number of reads of a lock that another program seems to have.
const MAX_READS: usize = 5;
/// Pause between two reads of a lock.
const READ_INTERVAL: Duration = Duration::from_millis(10);
/// Time for a holder's process, if it runs, to notice that its lock was broken; and for a server to
/// end a connection.
const EVICTION_TIMEOUT: Duration = Duration::from_secs(2);

impl AdvisoryStore {
    /// The holder of the lock with this key.
    pub(super) async fn read_holder(&self, name: &LockName, key: AdvisoryKey) -> Result<Option<HeldBy>> {
        let (class, object, form) = key.parts();
        let values = [Value::text(name), Value::Text(format!("{class}:{object}:{form}"))];
        let reply = self.database.run(&self.statements.inspect, &values).await?;
        let Some(row) = reply.rows.first() else { return Ok(None) };
        // Without a row of its holder: another program has it, or this one under another name of
        // the same key.
        Ok(Some(Row::read(row).map_or_else(HeldBy::default, |row| self.held_by(&reply, &row))))
    }

    /// As [`read_holder`](AdvisoryStore::read_holder), waiting for a row that is not there yet: it
    /// is written just after its lock is granted.
    pub(super) async fn read_settled_holder(&self, name: &LockName, key: AdvisoryKey) -> Result<Option<HeldBy>> {
        let mut by = self.read_holder(name, key).await?;
        for _ in 0..MAX_READS {
            if by.as_ref().is_none_or(|by| by.holder.is_some()) {
                break;
            }
            tokio::time::sleep(READ_INTERVAL).await;
            by = self.read_holder(name, key).await?;
        }
        Ok(by)
    }

    pub(super) fn held_by(&self, reply: &Reply, row: &Row) -> HeldBy {
        let mut by = row.held_by();
        by.token = Some(self.realm.token(reply, &row.realm, row.token));
        // A lock that was not revoked has no end by time.
        by.remaining = by.remaining.filter(|_| row.revoked);
        by
    }

    /// Breaks the lock of this holder.
    pub(super) async fn evict(&self, name: &LockName, holder: Holder, how: BreakMode) -> Result<Option<Eviction>> {
        let (statement, values) = match how {
            BreakMode::Revoke => {
                let nobody = Value::text(Holder::fresh());
                (&self.statements.revoke, vec![Value::text(name), Value::text(holder), nobody])
            }
            BreakMode::Now => (&self.statements.evict, vec![Value::text(name), Value::text(holder)]),
        };
        let reply = self.database.run(statement, &values).await?;
        let Some(found) = reply.rows.first() else {
            return if reply.was_resent { Err(error::in_doubt(&reply.server, statement.action)) } else { Ok(None) };
        };
        let unexpected = || error::unexpected_reply(&reply.server, statement.action);
        let row = Row::read(found).ok_or_else(unexpected)?;
        let number = |column: &str| found.try_get::<i64, _>(column).map(i64::unsigned_abs).map_err(|_| unexpected());
        let token = self.realm.token(&reply, &row.realm, number("used")?);
        let free_in = Duration::from_micros(number("free_in")?);
        if how == BreakMode::Now {
            self.await_unlock(name, found.try_get("place").map_err(|_| unexpected())?).await?;
        }
        Ok(Some(Eviction::new(self.held_by(&reply, &row), Some(token), free_in)))
    }

    /// Waits until the connection has unlocked the lock at this place; ends a connection that does
    /// not in time.
    async fn await_unlock(&self, name: &LockName, place: String) -> Result<()> {
        for terminates in [0, 1] {
            let deadline = tokio::time::Instant::now() + EVICTION_TIMEOUT;
            while tokio::time::Instant::now() < deadline {
                let values = [Value::Text(place.clone()), Value::Number(terminates)];
                if self.database.run(&self.statements.probe, &values).await?.rows.is_empty() {
                    return Ok(());
                }
                tokio::time::sleep(READ_INTERVAL).await;
            }
        }
        let text = format!("\"{name}\": the connection that has it is asked to end, and has not ended yet");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }
}
