//! Breaking locks.

use std::time::Duration;

use lock_core::{BreakMode, Eviction, Holder, LockName, Result};
use sqlx::Row as _;

use crate::error;
use crate::row::Row;
use crate::statement::Value;
use crate::store::PostgresStore;

impl PostgresStore {
    /// Breaks the lock of this holder.
    pub(crate) async fn evict(&self, name: &LockName, holder: Holder, how: BreakMode) -> Result<Option<Eviction>> {
        let (statement, last) = match how {
            BreakMode::Revoke => (&self.statements.revoke, Value::text(Holder::fresh())),
            BreakMode::Now => (&self.statements.free, Value::text(self.database.config().table.channel())),
        };
        let reply = self.database.run(statement, &[Value::text(name), Value::text(holder), last]).await?;
        let unexpected = || error::unexpected_reply(&reply.server, statement.action);
        let Some(found) = reply.rows.first() else {
            return if reply.was_resent { Err(error::in_doubt(&reply.server, statement.action)) } else { Ok(None) };
        };
        let row = Row::read(found).ok_or_else(unexpected)?;
        let used: i64 = found.try_get("used").map_err(|_| unexpected())?;
        let token = self.decoder.realm.token(&reply, &row.realm, used.unsigned_abs());
        let free_in = if how == BreakMode::Revoke { row.remaining } else { Duration::ZERO };
        Ok(Some(Eviction::new(self.decoder.held_by(&reply, &row), Some(token), free_in)))
    }
}
