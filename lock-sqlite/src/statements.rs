//! [`Statements`]: the SQL, prepared once for a connection.

use rusqlite::{Connection, Statement};

/// The statements on the tables, prepared once for a connection.
pub(crate) struct Statements<'c> {
    pub(crate) begin_read: Statement<'c>,
    pub(crate) begin_write: Statement<'c>,
    pub(crate) commit: Statement<'c>,
    pub(crate) rollback: Statement<'c>,
    pub(crate) data_version: Statement<'c>,
    pub(crate) meta: Statement<'c>,
    pub(crate) set_realm: Statement<'c>,
    pub(crate) find: Statement<'c>,
    pub(crate) list: Statement<'c>,
    pub(crate) insert: Statement<'c>,
    pub(crate) grant: Statement<'c>,
    pub(crate) extend: Statement<'c>,
    pub(crate) free: Statement<'c>,
    pub(crate) revoke: Statement<'c>,
    pub(crate) raise: Statement<'c>,
    pub(crate) count_row: Statement<'c>,
    pub(crate) sweep: Statement<'c>,
    pub(crate) raise_floor: Statement<'c>,
    pub(crate) delete: Statement<'c>,
}

const FIND: &str = "select token, holder, boot, expires_at, since, info, revoked from lease where name = ?1";
const LIST: &str = "select name, token, holder, boot, expires_at, since, info, revoked from lease
    where name > ?1 and holder is not null and boot = ?2 and expires_at > ?3 order by name limit ?4";
const INSERT: &str = "insert into lease(name, token, holder, boot, expires_at, since, info, revoked)
    values (?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)";
const GRANT: &str =
    "update lease set token = ?2, holder = ?3, boot = ?4, expires_at = ?5, since = ?6, info = ?7, revoked = 0
    where name = ?1";
const EXTEND: &str =
    "update lease set expires_at = ?3 where name = ?1 and holder = ?2 and boot = ?4 and expires_at > ?5";
const REVOKE: &str = "update lease set holder = ?3, token = ?2, revoked = 1 where name = ?1";
const COUNT_ROW: &str =
    "update lease_floor set rows = rows + 1 where id = 1 and floor between 0 and 9223372036854775806
    returning floor, rows, swept";
const SWEEP: &str = "select name, token, holder, boot, expires_at, since, info, revoked from lease
    where name > ?1 order by name limit ?2";
const RAISE_FLOOR: &str = "update lease_floor set floor = max(floor, ?1), rows = rows - ?2, swept = ?3 where id = 1";

impl<'c> Statements<'c> {
    pub(crate) fn prepare(db: &'c Connection) -> rusqlite::Result<Statements<'c>> {
        Ok(Statements {
            begin_read: db.prepare("begin")?,
            begin_write: db.prepare("begin immediate")?,
            commit: db.prepare("commit")?,
            rollback: db.prepare("rollback")?,
            data_version: db.prepare("pragma data_version")?,
            meta: db.prepare("select realm, boot from meta where id = 1")?,
            set_realm: db.prepare("update meta set realm = ?1 where id = 1")?,
            find: db.prepare(FIND)?,
            list: db.prepare(LIST)?,
            insert: db.prepare(INSERT)?,
            grant: db.prepare(GRANT)?,
            extend: db.prepare(EXTEND)?,
            free: db.prepare("update lease set holder = null, token = ?2 where name = ?1")?,
            revoke: db.prepare(REVOKE)?,
            raise: db.prepare("update lease set token = ?2 where name = ?1")?,
            count_row: db.prepare(COUNT_ROW)?,
            sweep: db.prepare(SWEEP)?,
            raise_floor: db.prepare(RAISE_FLOOR)?,
            delete: db.prepare("delete from lease where name = ?1")?,
        })
    }
}
