//! [`AdvisoryStatements`]: the SQL for advisory locks and their rows.

use crate::statement::Statement;
use crate::table::Table;

/// The statements for advisory locks and their rows. A row is written only by the holder of the
/// lock, on the connection that has it. Rows decide nothing but the token, and say who holds the
/// lock.
#[derive(Clone, Debug)]
pub(crate) struct AdvisoryStatements {
    pub(crate) lock_one: Statement,
    pub(crate) lock_two: Statement,
    pub(crate) unlock_one: Statement,
    pub(crate) unlock_two: Statement,
    pub(crate) take_row: Statement,
    pub(crate) insert_row: Statement,
    pub(crate) read_own_row: Statement,
    pub(crate) heartbeat: Statement,
    pub(crate) free: Statement,
    pub(crate) inspect: Statement,
    pub(crate) list: Statement,
    pub(crate) revoke: Statement,
    pub(crate) probe: Statement,
    pub(crate) evict: Statement,
    pub(crate) new_realm: Statement,
}

/// The columns that every row is returned with. A lock does not expire: `remaining` is for one that
/// was revoked.
macro_rules! row_columns {
    () => {
        "l.holder, l.token, l.info, l.revoked, m.realm, l.place,
         (extract(epoch from clock_timestamp() - l.since) * 1000000)::bigint as held_for,
         (extract(epoch from l.expires_at - clock_timestamp()) * 1000000)::bigint as remaining,
         (extract(epoch from clock_timestamp() - pg_postmaster_start_time()) * 1000000)::bigint as up"
    };
}

/// The advisory locks of this database that are held, with their connections.
macro_rules! held_locks {
    () => {
        "(select k.pid, concat_ws(':', k.classid, k.objid, k.objsubid) as key,
                 concat_ws(':', k.pid, k.classid, k.objid, k.objsubid) as place
          from pg_locks k where k.locktype = 'advisory' and k.granted
          and k.database = (select oid from pg_database where datname = current_database()))"
    };
}

/// Takes the next token of a name, for the holder of its lock. `$5` is the key. It does not wait
/// for a row that another transaction has locked: all other locks of this connection would wait as
/// well.
const TAKE_ROW: &str = concat!(
    "with c as materialized (select l.name from {t} l where l.name = $1 for update of l skip locked),
     u as (
         update {t} l set holder = $2, token = l.token + 1, since = clock_timestamp(), info = $4, revoked = false,
             expires_at = clock_timestamp() + $3 * interval '1 microsecond', place = pg_backend_pid() || ':' || $5
         from c where l.name = c.name returning l.*)
     select ",
    row_columns!(),
    " from u l, {m} m where m.id = 1"
);

/// Inserts the first row of a name, with a token above those of all rows that were removed.
const INSERT_ROW: &str = concat!(
    "with i as (
         insert into {t} (name, holder, token, since, expires_at, info, place)
         select $1, $2, f.floor + 1, clock_timestamp(), clock_timestamp() + $3 * interval '1 microsecond', $4,
             pg_backend_pid() || ':' || $5
         from (select floor from {m} where id = 1 for share) f
         on conflict do nothing returning *)
     select ",
    row_columns!(),
    " from i l, {m} m where m.id = 1"
);

/// The row of a holder whose lock is on this connection.
const READ_OWN_ROW: &str = concat!(
    "select ",
    row_columns!(),
    " from {t} l, {m} m where m.id = 1 and l.name = $1 and l.holder = $2
     and exists (select from ",
    held_locks!(),
    " k where k.place = l.place and k.pid = pg_backend_pid())"
);

/// The heartbeat: the locks of this connection, and the holders in their rows.
const HEARTBEAT: &str = concat!(
    "select k.key, l.holder, l.revoked,
         (extract(epoch from l.expires_at - clock_timestamp()) * 1000000)::bigint as remaining
     from ",
    held_locks!(),
    " k left join {t} l on l.place = k.place where k.pid = pg_backend_pid()"
);

/// Removes the holder from the row. It does not wait for a row that another transaction has locked.
const FREE: &str = "with c as materialized (
        select l.name from {t} l where l.name = $1 and l.holder = $2 for no key update of l skip locked),
    u as (
        update {t} l set holder = null, info = null, revoked = false, place = null
        from c where l.name = c.name and l.holder = $2 returning 1)
    select exists (select from u) as freed,
        not exists (select from u) and exists (select from {t} l where l.name = $1 and l.holder = $2) as locked";

/// The holder of the lock with this key: with a row if the row is the holder's; else another
/// program has the lock.
const INSPECT: &str = concat!(
    "select ",
    row_columns!(),
    " from ",
    held_locks!(),
    " k cross join {m} m left join {t} l on l.name = $1 and l.place = k.place and l.holder is not null
     where m.id = 1 and k.key = $2"
);

const LIST: &str = concat!(
    "select l.name, ",
    row_columns!(),
    " from {t} l, {m} m where m.id = 1 and l.name > $1 and l.holder is not null
     and exists (select from ",
    held_locks!(),
    " k where k.place = l.place)
     order by l.name limit $2"
);

/// Uses up a token and puts a holder that does not exist in the row. The connection keeps the lock
/// until it has noticed, and for as long as the holder may rely on its lease.
const REVOKE: &str = concat!(
    "with o as materialized (
         select * from {t} l where name = $1 and holder = $2
         and exists (select from ",
    held_locks!(),
    " k where k.place = l.place) for update of l),
     u as (
         update {t} l set holder = $3, token = l.token + 1, revoked = true,
             expires_at = clock_timestamp() + (o.expires_at - o.since), since = clock_timestamp()
         from o where l.name = o.name returning l.token, l.expires_at)
     select u.token as used,
         (extract(epoch from u.expires_at - clock_timestamp()) * 1000000)::bigint as free_in, ",
    row_columns!(),
    " from o l, u, {m} m where m.id = 1"
);

/// Checks whether a connection still has a lock; with `$2` > 0 it terminates that connection.
const PROBE: &str = concat!(
    "select k.place, case when $2 > 0 then pg_terminate_backend(k.pid) end from ",
    held_locks!(),
    " k where k.place = $1"
);

/// Uses up a token and removes the holder from the row: the connection unlocks the lock when it
/// notices.
const EVICT: &str = concat!(
    "with o as materialized (
         select * from {t} l where name = $1 and holder = $2
         and exists (select from ",
    held_locks!(),
    " k where k.place = l.place) for update of l),
     u as (
         update {t} l set holder = null, info = null, place = null, revoked = false, token = l.token + 1
         from o where l.name = o.name returning l.token)
     select u.token as used, 0::bigint as free_in, ",
    row_columns!(),
    " from o l, u, {m} m where m.id = 1"
);

impl AdvisoryStatements {
    pub(crate) fn new(table: &Table) -> AdvisoryStatements {
        let make = |action, sql: &str| Statement::new(action, table.with_names(sql));
        AdvisoryStatements {
            lock_one: make("asking for a lock", "select pg_try_advisory_lock($1) as got"),
            lock_two: make("asking for a lock", "select pg_try_advisory_lock($1::integer, $2::integer) as got"),
            unlock_one: make("releasing a lock", "select pg_advisory_unlock($1) as had"),
            unlock_two: make("releasing a lock", "select pg_advisory_unlock($1::integer, $2::integer) as had"),
            take_row: make("asking for a lock", TAKE_ROW),
            insert_row: make("asking for a lock", INSERT_ROW),
            read_own_row: make("asking for a lock", READ_OWN_ROW),
            heartbeat: make("renewing", HEARTBEAT),
            free: make("releasing a lock", FREE),
            inspect: make("looking at a lock", INSPECT),
            list: make("listing locks", LIST),
            revoke: make("breaking a lock", REVOKE),
            probe: make("breaking a lock", PROBE),
            evict: make("breaking a lock", EVICT),
            new_realm: make("beginning a new realm", "update {m} set realm = $1 where id = 1 returning realm"),
        }
    }
}
