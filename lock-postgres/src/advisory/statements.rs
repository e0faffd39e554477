//! [`AdvisoryStatements`]: the statements beside the locks.

use crate::statement::Statement;
use crate::table::Table;

/// The statements beside the locks. Rows are written by who has the lock, on the connection that has it; they decide
/// nothing but the token, and say who holds it.
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

/// What is shown of a row: a lock has no end by time, and `remaining` is for those that were revoked.
macro_rules! row_columns {
    () => {
        "l.holder, l.token, l.info, l.revoked, m.realm, l.place,
         (extract(epoch from clock_timestamp() - l.since) * 1000000)::bigint as held_for,
         (extract(epoch from l.expires_at - clock_timestamp()) * 1000000)::bigint as remaining,
         (extract(epoch from clock_timestamp() - pg_postmaster_start_time()) * 1000000)::bigint as up"
    };
}

/// The advisory locks of this database that are held, each with the connection that has it.
macro_rules! held_locks {
    () => {
        "(select k.pid, concat_ws(':', k.classid, k.objid, k.objsubid) as key,
                 concat_ws(':', k.pid, k.classid, k.objid, k.objsubid) as place
          from pg_locks k where k.locktype = 'advisory' and k.granted
          and k.database = (select oid from pg_database where datname = current_database()))"
    };
}

/// The next token of a name, for who has its lock. `$5` is the key. A row that another transaction has locked is left as it
/// is: all other locks of this connection would wait as well.
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

/// The row of who has it on this connection.
const READ_OWN_ROW: &str = concat!(
    "select ",
    row_columns!(),
    " from {t} l, {m} m where m.id = 1 and l.name = $1 and l.holder = $2
     and exists (select from ",
    held_locks!(),
    " k where k.place = l.place and k.pid = pg_backend_pid())"
);

/// The heartbeat: what this connection has, and whose rows these are now.
const HEARTBEAT: &str = concat!(
    "select k.key, l.holder, l.revoked,
         (extract(epoch from l.expires_at - clock_timestamp()) * 1000000)::bigint as remaining
     from ",
    held_locks!(),
    " k left join {t} l on l.place = k.place where k.pid = pg_backend_pid()"
);

/// A row that another transaction has locked is left as it is.
const FREE: &str = "with c as materialized (
        select l.name from {t} l where l.name = $1 and l.holder = $2 for no key update of l skip locked),
    u as (
        update {t} l set holder = null, info = null, revoked = false, place = null
        from c where l.name = c.name and l.holder = $2 returning 1)
    select exists (select from u) as freed,
        not exists (select from u) and exists (select from {t} l where l.name = $1 and l.holder = $2) as locked";

/// Who has the lock with this key: the row, if it is of who has it; else another program has it.
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

/// Uses up a token and puts nobody in the holder's place. The lock stays where it is until the holder's connection has
/// noticed, and for as long as the holder may believe.
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

/// Whether a connection still has a lock; ends that connection if it is told to.
const PROBE: &str = concat!(
    "select k.place, case when $2 > 0 then pg_terminate_backend(k.pid) end from ",
    held_locks!(),
    " k where k.place = $1"
);

/// Uses up a token and says that nobody holds it: whose connection has the lock gives it up when it notices.
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
