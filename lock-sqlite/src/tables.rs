//! [`Tables`]: the tables inside one transaction.

use std::sync::Arc;

use lock_core::{Error, FencingToken, Holder, HolderInfo, LockName, Realm};
use rusqlite::{Connection, OptionalExtension, params};

use crate::error::{OpError, corrupt};
use crate::machine::{Machine, boot_time};
use crate::row::{BootClock, LiveLease, Row, deadline_after};
use crate::shared::Shared;
use crate::statements::Statements;

/// Number of rows, held or free, above which each new name triggers a sweep of free rows.
const MAX_UNSWEPT_ROWS: i64 = 10_000;
/// Number of rows that a sweep visits: more than the one row that caused it, so that the table
/// shrinks, and few enough for a short transaction.
const SWEEP_ROWS: i64 = 16;

/// The tables inside one transaction.
///
/// The methods are for use inside a transaction, begun with [`begin_read`](Tables::begin_look) or
/// [`begin_write`](Tables::begin_write).
pub(crate) struct Tables<'c> {
    db: &'c Connection,
    boot: Arc<str>,
    shared: Arc<Shared>,
    /// The start of this transaction, on the boot-time clock.
    now: i64,
    realm: Realm,
    /// `PRAGMA data_version` when it was last read: it changes when another connection commits.
    version: i64,
    /// This transaction frees a name.
    frees_name: bool,
    statements: Statements<'c>,
}

/// Facts about the tables and the settings of the connection, for operators.
pub(crate) struct TableFacts {
    pub(crate) journal_mode: String,
    pub(crate) synchronous: i64,
    /// Number of rows, free ones included.
    pub(crate) rows: i64,
    pub(crate) held: i64,
    pub(crate) realm: Realm,
}

impl<'c> Tables<'c> {
    pub(crate) fn new(db: &'c Connection, machine: &Machine, shared: Arc<Shared>) -> rusqlite::Result<Tables<'c>> {
        Ok(Tables {
            db,
            boot: machine.boot.clone(),
            shared,
            now: 0,
            realm: Realm::new(""),
            version: 0,
            frees_name: false,
            statements: Statements::prepare(db)?,
        })
    }

    /// Begins a transaction that reads a snapshot.
    pub(crate) fn begin_read(&mut self) -> Result<(), OpError> {
        self.roll_back();
        self.statements.begin_read.execute([])?;
        self.read_meta()
    }

    /// Begins a transaction that writes; no other process writes meanwhile.
    pub(crate) fn begin_write(&mut self) -> Result<(), OpError> {
        self.roll_back();
        self.statements.begin_write.execute([])?;
        self.read_meta()
    }

    fn read_meta(&mut self) -> Result<(), OpError> {
        self.frees_name = false;
        let known = &self.realm;
        let boot = &*self.boot;
        let meta = self.statements.meta.query_row([], |row| {
            let realm = row.get_ref(0)?.as_str()?;
            let is_this_boot = row.get_ref(1)?.as_str()? == boot;
            Ok(((realm != known.as_str()).then(|| Realm::new(realm)), is_this_boot))
        });
        let (realm, is_this_boot) = meta?;
        if !is_this_boot {
            let text = "the lock file was taken over by another machine; nothing was changed; connect again";
            return Err(Error::invalid_config(text).into());
        }
        if let Some(realm) = realm {
            self.realm = realm;
        }
        self.now = boot_time();
        Ok(())
    }

    /// Commits; afterwards the writes are on the disk. If a name was freed, it notifies the waiters
    /// of this store: `data_version` does not change by this connection's own commits.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        self.statements.commit.execute([])?;
        self.shared.set_realm(&self.realm);
        if self.frees_name {
            self.shared.changes.notify();
        }
        Ok(())
    }

    /// Rolls back the transaction, if one is open.
    pub(crate) fn roll_back(&mut self) {
        if self.db.is_autocommit() {
            return;
        }
        if let Err(error) = self.statements.rollback.execute([]) {
            tracing::warn!(%error, "rolling back failed; the next transaction will begin with it");
        }
    }

    /// Number of rows that this connection has written.
    pub(crate) fn rows_written(&self) -> u64 {
        self.db.total_changes()
    }

    /// Checks whether another connection has committed since the last check, and notifies the
    /// waiters if so. It reads memory that all processes share, not the disk.
    pub(crate) fn poll_changes(&mut self) -> rusqlite::Result<bool> {
        let version = self.statements.data_version.query_row([], |row| row.get(0))?;
        let changed = std::mem::replace(&mut self.version, version) != version;
        if changed {
            self.shared.changes.notify();
        }
        Ok(changed)
    }

    /// The version that this transaction sees: a waiter for another version misses no later change.
    pub(crate) fn version(&mut self) -> rusqlite::Result<u64> {
        self.poll_changes()?;
        Ok(self.shared.changes.version())
    }

    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    pub(crate) fn token(&self, number: i64) -> FencingToken {
        FencingToken::new(self.realm.clone(), number.unsigned_abs())
    }

    pub(crate) fn held_by(&self, held: &LiveLease, token: i64) -> lock_core::HeldBy {
        held.held_by(token, &self.realm, self.now)
    }

    pub(crate) fn find(&mut self, name: &LockName) -> Result<Option<Row>, OpError> {
        let now = BootClock { boot: &self.boot, nanos: self.now };
        Ok(self.statements.find.query_row([name.as_str()], |row| Row::read(row, 0, now)).optional()?.transpose()?)
    }

    /// Up to `limit` held rows after `after`, by name.
    pub(crate) fn list(&mut self, after: &str, limit: i64) -> Result<Vec<(LockName, Row)>, OpError> {
        let now = BootClock { boot: &self.boot, nanos: self.now };
        let mut rows = self.statements.list.query(params![after, &*self.boot, self.now, limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let name = LockName::new(name).map_err(|_| corrupt("a name that is none"))?;
            found.push((name, Row::read(row, 1, now)??));
        }
        Ok(found)
    }

    /// Facts about the tables and the settings, for operators.
    pub(crate) fn facts(&self) -> rusqlite::Result<TableFacts> {
        const HELD: &str = "select count(*) from lease where holder is not null and boot = ?1 and expires_at > ?2";
        Ok(TableFacts {
            journal_mode: self.db.query_row("pragma journal_mode", [], |row| row.get(0))?,
            synchronous: self.db.query_row("pragma synchronous", [], |row| row.get(0))?,
            rows: self.db.query_row("select count(*) from lease", [], |row| row.get(0))?,
            held: self.db.query_row(HELD, params![&*self.boot, self.now], |row| row.get(0))?,
            realm: self.realm.clone(),
        })
    }

    /// Grants a free name to `holder`; returns the new token.
    pub(crate) fn grant(
        &mut self,
        name: &LockName,
        row: Option<&Row>,
        holder: Holder,
        expires_at: i64,
        info: &HolderInfo,
    ) -> Result<i64, OpError> {
        let info = serde_json::to_string(info).unwrap_or_default();
        let bytes = holder.as_u128().to_be_bytes();
        match row {
            Some(row) => {
                let token = row.next_token()?;
                let values = params![name.as_str(), token, bytes, &*self.boot, expires_at, self.now, info];
                self.statements.grant.execute(values)?;
                Ok(token)
            }
            None => {
                let (floor, rows, swept) = self.count_row()?;
                let token = floor + 1;
                let values = params![name.as_str(), token, bytes, &*self.boot, expires_at, self.now, info];
                self.statements.insert.execute(values)?;
                if rows > MAX_UNSWEPT_ROWS {
                    self.sweep(&swept)?;
                }
                Ok(token)
            }
        }
    }

    /// Counts one more row; returns the floor, the number of rows, and the end of the last sweep.
    fn count_row(&mut self) -> Result<(i64, i64, String), OpError> {
        let counted =
            self.statements.count_row.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        Ok(counted.ok_or_else(|| corrupt("a floor that no token can follow"))?)
    }

    /// Deletes the free rows among the next few after `swept`. The floor is raised to their tokens
    /// first, in the same transaction, so that a name that comes back goes on above what it had.
    fn sweep(&mut self, swept: &str) -> Result<(), OpError> {
        let now = BootClock { boot: &self.boot, nanos: self.now };
        let mut visited = 0;
        let mut last = String::new();
        let mut free: Vec<(String, i64)> = Vec::new();
        let mut rows = self.statements.sweep.query(params![swept, SWEEP_ROWS])?;
        while let Some(found) = rows.next()? {
            visited += 1;
            last = found.get(0)?;
            // A corrupt row is not ours to delete; a request for its name reports it.
            if let Ok(Row { token, held: None }) = Row::read(found, 1, now)? {
                free.push((last.clone(), token));
            }
        }
        drop(rows);
        if visited < SWEEP_ROWS {
            last.clear();
        }
        let highest = free.iter().map(|(_, token)| *token).max().unwrap_or(0);
        self.statements.raise_floor.execute(params![highest, free.len() as i64, last])?;
        for (name, _) in &free {
            self.statements.delete.execute([name])?;
        }
        Ok(())
    }

    /// Extends the lease of `holder`, if it has one, to a full TTL from now.
    pub(crate) fn extend(
        &mut self,
        name: &LockName,
        holder: Holder,
        ttl: std::time::Duration,
    ) -> Result<bool, OpError> {
        let bytes = holder.as_u128().to_be_bytes();
        let values = params![name.as_str(), bytes, deadline_after(self.now, ttl), &*self.boot, self.now];
        Ok(self.statements.extend.execute(values)? > 0)
    }

    /// Frees a name; its last token is `token`.
    pub(crate) fn free(&mut self, name: &LockName, token: i64) -> Result<(), OpError> {
        self.frees_name = true;
        self.statements.free.execute(params![name.as_str(), token])?;
        Ok(())
    }

    /// Replaces the holder by one that does not exist; the name stays blocked until the lease would
    /// have ended.
    pub(crate) fn revoke(&mut self, name: &LockName, token: i64) -> Result<(), OpError> {
        let nobody = Holder::fresh().as_u128().to_be_bytes();
        self.statements.revoke.execute(params![name.as_str(), token, nobody])?;
        Ok(())
    }

    /// Sets the token of a held name.
    pub(crate) fn raise(&mut self, name: &LockName, token: i64) -> Result<(), OpError> {
        self.statements.raise.execute(params![name.as_str(), token])?;
        Ok(())
    }

    /// Begins a new realm. If this is rolled back, the next transaction reads the old one again.
    pub(crate) fn start_realm(&mut self) -> Result<Realm, OpError> {
        let realm = Realm::fresh("sqlite");
        self.statements.set_realm.execute([realm.as_str()])?;
        self.realm = realm.clone();
        Ok(realm)
    }
}
