//! [`Tables`]: the statements, prepared once, and what they see.

use std::sync::Arc;

use lock_core::{Error, ErrorKind, FencingToken, Holder, HolderInfo, LockName, Realm};
use rusqlite::{Connection, OptionalExtension, Statement, params};

use crate::error::{Failure, damaged};
use crate::machine::{Machine, boot_time};
use crate::row::{Held, Now, Row, after};
use crate::shared::Shared;

/// So many rows stay, held or free. Beyond, each new name sweeps free rows away.
const ROWS_KEPT: i64 = 10_000;
/// So many rows a sweep looks at: more than the one row that caused it, so that the number falls, and few enough for a
/// short transaction.
const SWEEP: i64 = 16;

/// The statements, prepared once, and what they see.
///
/// The methods are for the inside of one transaction, begun with [`begin_look`](Tables::begin_look) or
/// [`begin_write`](Tables::begin_write).
pub(crate) struct Tables<'c> {
    db: &'c Connection,
    boot: Arc<str>,
    shared: Arc<Shared>,
    /// When this transaction began, on the boot-time clock.
    now: i64,
    realm: Realm,
    /// `PRAGMA data_version` when it was last read: it changes when another connection commits.
    version: i64,
    /// Whether this transaction frees a name.
    frees: bool,
    begin_look: Statement<'c>,
    begin_write: Statement<'c>,
    commit: Statement<'c>,
    rollback: Statement<'c>,
    data_version: Statement<'c>,
    meta: Statement<'c>,
    set_realm: Statement<'c>,
    find: Statement<'c>,
    list: Statement<'c>,
    insert: Statement<'c>,
    grant: Statement<'c>,
    extend: Statement<'c>,
    free: Statement<'c>,
    revoke: Statement<'c>,
    count_row: Statement<'c>,
    sweep: Statement<'c>,
    raise_floor: Statement<'c>,
    delete: Statement<'c>,
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
            frees: false,
            begin_look: db.prepare("begin")?,
            begin_write: db.prepare("begin immediate")?,
            commit: db.prepare("commit")?,
            rollback: db.prepare("rollback")?,
            data_version: db.prepare("pragma data_version")?,
            meta: db.prepare("select realm, boot from meta where id = 1")?,
            set_realm: db.prepare("update meta set realm = ?1 where id = 1")?,
            find: db.prepare(
                "select token, holder, boot, expires_at, since, info, revoked from lease where name = ?1",
            )?,
            list: db.prepare(
                "select name, token, holder, boot, expires_at, since, info, revoked from lease
                 where name > ?1 and holder is not null and boot = ?2 and expires_at > ?3 order by name limit ?4",
            )?,
            insert: db.prepare(
                "insert into lease(name, token, holder, boot, expires_at, since, info, revoked)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
            )?,
            grant: db.prepare(
                "update lease set token = ?2, holder = ?3, boot = ?4, expires_at = ?5, since = ?6, info = ?7, revoked = 0
                 where name = ?1",
            )?,
            extend: db.prepare(
                "update lease set expires_at = ?3 where name = ?1 and holder = ?2 and boot = ?4 and expires_at > ?5",
            )?,
            free: db.prepare("update lease set holder = null, token = ?2 where name = ?1")?,
            revoke: db.prepare("update lease set holder = ?3, token = ?2, revoked = 1 where name = ?1")?,
            count_row: db.prepare(
                "update lease_floor set rows = rows + 1 where id = 1 and floor between 0 and 9223372036854775806
                 returning floor, rows, swept",
            )?,
            sweep: db.prepare(
                "select name, token, holder, boot, expires_at, since, info, revoked from lease
                 where name > ?1 order by name limit ?2",
            )?,
            raise_floor: db.prepare(
                "update lease_floor set floor = max(floor, ?1), rows = rows - ?2, swept = ?3 where id = 1",
            )?,
            delete: db.prepare("delete from lease where name = ?1")?,
        })
    }

    /// Begins to read; nothing that others do meanwhile is seen.
    pub(crate) fn begin_look(&mut self) -> Result<(), Failure> {
        self.roll_back();
        self.begin_look.execute([])?;
        self.begun()
    }

    /// Begins to write; nobody else writes meanwhile.
    pub(crate) fn begin_write(&mut self) -> Result<(), Failure> {
        self.roll_back();
        self.begin_write.execute([])?;
        self.begun()
    }

    fn begun(&mut self) -> Result<(), Failure> {
        self.frees = false;
        let known = &self.realm;
        let boot = &*self.boot;
        let meta = self.meta.query_row([], |row| {
            let realm = row.get_ref(0)?.as_str()?;
            let is_here = row.get_ref(1)?.as_str()? == boot;
            Ok(((realm != known.as_str()).then(|| Realm::new(realm)), is_here))
        });
        let (realm, is_here) = meta?;
        if !is_here {
            let text = "the lock file was taken over by another machine; nothing was changed; connect again";
            return Err(Error::refused(ErrorKind::InvalidConfig, text).into());
        }
        if let Some(realm) = realm {
            self.realm = realm;
        }
        self.now = boot_time();
        Ok(())
    }

    /// Ends the transaction; what it wrote is on the disk. Tells the waiters of this store if it freed a name: the
    /// version that they look at does not change by this connection's own commits.
    pub(crate) fn commit(&mut self) -> rusqlite::Result<()> {
        self.commit.execute([])?;
        self.shared.set_realm(&self.realm);
        if self.frees {
            self.shared.changes.tell();
        }
        Ok(())
    }

    /// Ends the transaction, if one is open, without a trace.
    pub(crate) fn roll_back(&mut self) {
        if self.db.is_autocommit() {
            return;
        }
        if let Err(error) = self.rollback.execute([]) {
            tracing::warn!(%error, "rolling back failed; the next transaction will begin with it");
        }
    }

    /// How many rows this connection has written.
    pub(crate) fn written(&self) -> u64 {
        self.db.total_changes()
    }

    /// Looks whether another connection has committed since the last look, and tells the waiters if so. It reads memory
    /// that all processes share, not the disk.
    pub(crate) fn look_for_changes(&mut self) -> rusqlite::Result<bool> {
        let version = self.data_version.query_row([], |row| row.get(0))?;
        let changed = std::mem::replace(&mut self.version, version) != version;
        if changed {
            self.shared.changes.tell();
        }
        Ok(changed)
    }

    /// A mark of what this transaction sees: who waits for another one misses nothing that comes after.
    pub(crate) fn seen(&mut self) -> rusqlite::Result<u64> {
        self.look_for_changes()?;
        Ok(self.shared.changes.count())
    }

    pub(crate) fn now(&self) -> i64 {
        self.now
    }

    pub(crate) fn token(&self, number: i64) -> FencingToken {
        FencingToken::new(self.realm.clone(), number.unsigned_abs())
    }

    pub(crate) fn shown(&self, held: &Held, token: i64) -> lock_core::HeldBy {
        held.shown(token, &self.realm, self.now)
    }

    pub(crate) fn find(&mut self, name: &LockName) -> Result<Option<Row>, Failure> {
        let now = Now { boot: &self.boot, nanos: self.now };
        Ok(self.find.query_row([name.as_str()], |row| Row::read(row, 0, now)).optional()?.transpose()?)
    }

    /// Up to `limit` held rows after `after`, by name.
    pub(crate) fn list(&mut self, after: &str, limit: i64) -> Result<Vec<(LockName, Row)>, Failure> {
        let now = Now { boot: &self.boot, nanos: self.now };
        let mut rows = self.list.query(params![after, &*self.boot, self.now, limit])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let name = LockName::new(name).map_err(|_| damaged("a name that is none"))?;
            found.push((name, Row::read(row, 1, now)??));
        }
        Ok(found)
    }

    /// Gives a free name to `holder`, after the token `last`, and gives the new token.
    pub(crate) fn grant(
        &mut self,
        name: &LockName,
        row: Option<&Row>,
        holder: Holder,
        expires_at: i64,
        info: &HolderInfo,
    ) -> Result<i64, Failure> {
        let info = serde_json::to_string(info).unwrap_or_default();
        let bytes = holder.as_u128().to_be_bytes();
        match row {
            Some(row) => {
                let token = row.next_token()?;
                let values = params![name.as_str(), token, bytes, &*self.boot, expires_at, self.now, info];
                self.grant.execute(values)?;
                Ok(token)
            }
            None => {
                let (floor, rows, swept) = self.count_row()?;
                let token = floor + 1;
                let values = params![name.as_str(), token, bytes, &*self.boot, expires_at, self.now, info];
                self.insert.execute(values)?;
                if rows > ROWS_KEPT {
                    self.sweep(&swept)?;
                }
                Ok(token)
            }
        }
    }

    /// Counts one more row: the floor, the rows, and where the last sweep ended.
    fn count_row(&mut self) -> Result<(i64, i64, String), Failure> {
        let counted = self.count_row.query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).optional()?;
        Ok(counted.ok_or_else(|| damaged("a floor that no token can follow"))?)
    }

    /// Deletes the free rows among the next few after `swept`. The floor is raised to their tokens first, in the same
    /// transaction, so that a name that comes back goes on above what it had.
    fn sweep(&mut self, swept: &str) -> Result<(), Failure> {
        let now = Now { boot: &self.boot, nanos: self.now };
        let mut looked_at = 0;
        let mut last = String::new();
        let mut free: Vec<(String, i64)> = Vec::new();
        let mut rows = self.sweep.query(params![swept, SWEEP])?;
        while let Some(found) = rows.next()? {
            looked_at += 1;
            last = found.get(0)?;
            // What cannot be read is not ours to delete; whoever asks for that name is told.
            if let Ok(Row { token, held: None }) = Row::read(found, 1, now)? {
                free.push((last.clone(), token));
            }
        }
        drop(rows);
        if looked_at < SWEEP {
            last.clear();
        }
        let highest = free.iter().map(|(_, token)| *token).max().unwrap_or(0);
        self.raise_floor.execute(params![highest, free.len() as i64, last])?;
        for (name, _) in &free {
            self.delete.execute([name])?;
        }
        Ok(())
    }

    /// Extends the lease of `holder`, if it has one, to a full TTL from now.
    pub(crate) fn extend(
        &mut self,
        name: &LockName,
        holder: Holder,
        ttl: std::time::Duration,
    ) -> Result<bool, Failure> {
        let bytes = holder.as_u128().to_be_bytes();
        let values = params![name.as_str(), bytes, after(self.now, ttl), &*self.boot, self.now];
        Ok(self.extend.execute(values)? > 0)
    }

    /// Frees a name; its last token is `token`.
    pub(crate) fn free(&mut self, name: &LockName, token: i64) -> Result<(), Failure> {
        self.frees = true;
        self.free.execute(params![name.as_str(), token])?;
        Ok(())
    }

    /// Puts nobody in the place of a holder; the name stays blocked as long as it was.
    pub(crate) fn revoke(&mut self, name: &LockName, token: i64) -> Result<(), Failure> {
        let nobody = Holder::fresh().as_u128().to_be_bytes();
        self.revoke.execute(params![name.as_str(), token, nobody])?;
        Ok(())
    }

    /// Begins a new realm. If this is rolled back, the next transaction reads the old one again.
    pub(crate) fn begin_realm(&mut self) -> Result<Realm, Failure> {
        let realm = Realm::fresh("sqlite");
        self.set_realm.execute([realm.as_str()])?;
        self.realm = realm.clone();
        Ok(realm)
    }
}
