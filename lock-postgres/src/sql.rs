//! [`Sql`]: the statements, each one check-and-act on the table.
//!
//! They run in transactions of their own, READ COMMITTED: a statement that waits for a row looks at it again as it is
//! then. None that grants waits. Every time is the server's clock, read when the row is: `now()` is the time at which a
//! transaction began.

use crate::Table;
use crate::statement::Statement;

/// The statements for one table.
#[derive(Clone, Debug)]
pub(crate) struct Sql {
    pub(crate) meta: Statement,
    pub(crate) request: Statement,
    pub(crate) insert: Statement,
    pub(crate) announce: Statement,
    pub(crate) renew: Statement,
    pub(crate) renew_patiently: Statement,
    pub(crate) release: Statement,
    pub(crate) raise: Statement,
    pub(crate) inspect: Statement,
    pub(crate) list: Statement,
    pub(crate) revoke: Statement,
    pub(crate) free: Statement,
    pub(crate) new_realm: Statement,
    pub(crate) prune: String,
}

/// What all rows are shown by: who holds it, since when and for how long, in microseconds.
macro_rules! shown {
    () => {
        "l.holder, l.token, l.info, l.revoked,
         (extract(epoch from clock_timestamp() - l.since) * 1000000)::bigint as held_for,
         (extract(epoch from l.expires_at - clock_timestamp()) * 1000000)::bigint as remaining,
         m.realm, (extract(epoch from clock_timestamp() - pg_postmaster_start_time()) * 1000000)::bigint as up"
    };
}

const META: &str = "select version, mode, realm,
    (select c.relpersistence::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
     where n.nspname = $1 and c.relname = $2) as persistence
    from {m} where id = 1";

/// Takes what is free, has ended, or is the own; else shows who is in the way. No row at all: there is none yet.
/// Rows that another transaction has locked are skipped, not waited for: who waits is granted after it gave up.
const REQUEST: &str = concat!(
    "with c as materialized (
         select l.name from {t} l where l.name = $1
         and (l.holder is null or l.holder = $2 or l.expires_at <= clock_timestamp())
         for update of l skip locked),
     u as (
         update {t} l set
             holder = $2,
             token = case when l.holder = $2 then l.token else l.token + 1 end,
             since = case when l.holder = $2 then l.since else clock_timestamp() end,
             waited_for = case when l.holder = $2 then l.waited_for else false end,
             info = $4,
             revoked = false,
             expires_at = clock_timestamp() + $3 * interval '1 microsecond'
         from c where l.name = c.name
         returning l.*)
     select true as granted, ",
    shown!(),
    " from u l, {m} m where m.id = 1
     union all
     select false as granted, ",
    shown!(),
    " from {t} l, {m} m where m.id = 1 and l.name = $1 and not exists (select from u)"
);

/// The first row of a name: its token is above every token that a row had that was removed. The floor is read under a
/// lock that removing waits for, and only where there is no row; what a plain upsert would insert can be too low.
const INSERT: &str = concat!(
    "with i as (
         insert into {t} (name, holder, token, since, expires_at, info)
         select $1, $2, f.floor + 1, clock_timestamp(), clock_timestamp() + $3 * interval '1 microsecond', $4
         from (select floor from {m} where id = 1 and not exists (select from {t} where name = $1) for share) f
         on conflict do nothing
         returning *)
     select true as granted, ",
    shown!(),
    " from i l, {m} m where m.id = 1"
);

/// Says on the lease that was seen that somebody waits for its end; whether that is said now. If it is, the release has
/// not been done yet, and will tell.
const ANNOUNCE: &str = "with u as (
        update {t} set waited_for = true
        where name = $1 and holder = $2 and not waited_for and expires_at > clock_timestamp() returning 1)
    select exists (select from u)
        or exists (select from {t} where name = $1 and holder = $2 and waited_for) as announced";

/// Renews what is held and has not ended. A row that another transaction has locked is left out, so that it does not hold
/// up the others: it is neither renewed nor lost.
const RENEW: &str = "with w as materialized (
        select * from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as w(name, holder, ttl, entry)),
    c as materialized (
        select l.name from w join {t} l on l.name = w.name and l.holder = w.holder
        where l.expires_at > clock_timestamp()
        for no key update of l skip locked),
    u as (
        update {t} l set expires_at = clock_timestamp() + w.ttl * interval '1 microsecond'
        from c join w on w.name = c.name where l.name = c.name and l.holder = w.holder
        returning w.entry)
    select w.entry, exists (select from u where u.entry = w.entry) as renewed,
        exists (select from {t} l where l.name = w.name and l.holder = w.holder
            and l.expires_at > clock_timestamp()) as locked
    from w";

/// The same for those that were locked: it waits for them, for as long as a step waits for a row. In the order of their
/// names, so that two that wait cannot wait for each other.
const RENEW_PATIENTLY: &str = "with w as materialized (
        select * from unnest($1::text[], $2::text[], $3::bigint[]) with ordinality as w(name, holder, ttl, entry)),
    c as materialized (
        select l.name from w join {t} l on l.name = w.name and l.holder = w.holder
        where l.expires_at > clock_timestamp()
        order by l.name
        for no key update of l),
    u as (
        update {t} l set expires_at = clock_timestamp() + w.ttl * interval '1 microsecond'
        from c join w on w.name = c.name where l.name = c.name and l.holder = w.holder
            and l.expires_at > clock_timestamp()
        returning w.entry)
    select w.entry, exists (select from u where u.entry = w.entry) as renewed, false as locked
    from w";

/// Gives back what is held; tells those who said that they wait, and nobody else: every message of every transaction of
/// a server goes through one queue.
const RELEASE: &str = "with u as (
        update {t} set holder = null, info = null, revoked = false
        where name = $1 and holder = $2 returning expires_at > clock_timestamp() as held, waited_for)
    select held, case when waited_for then pg_notify($3, $1) end from u";

const RAISE: &str = "with u as (
        update {t} set token = greatest(token, $3)
        where name = $1 and holder = $2 and token <= $3 and expires_at > clock_timestamp() returning 1)
    select exists (select from u) as raised";

const INSPECT: &str = concat!(
    "select ",
    shown!(),
    " from {t} l, {m} m where m.id = 1 and l.name = $1 and l.holder is not null and l.expires_at > clock_timestamp()"
);

const LIST: &str = concat!(
    "select l.name, ",
    shown!(),
    " from {t} l, {m} m where m.id = 1 and l.name > $1 and l.holder is not null and l.expires_at > clock_timestamp()
     order by l.name limit $2"
);

/// Uses up a token and puts nobody in the holder's place, until the lease would have ended. It waits for a transaction
/// that is fenced by this lease.
const REVOKE: &str = concat!(
    "with o as materialized (
         select * from {t} where name = $1 and holder = $2 and expires_at > clock_timestamp() for update),
     u as (
         update {t} l set holder = $3, token = l.token + 1, revoked = true from o where l.name = o.name
         returning l.token)
     select u.token as used, ",
    shown!(),
    " from o l, u, {m} m where m.id = 1"
);

/// Uses up a token and frees the name.
const FREE: &str = concat!(
    "with o as materialized (
         select * from {t} where name = $1 and holder = $2 and expires_at > clock_timestamp() for update),
     u as (
         update {t} l set holder = null, info = null, revoked = false, token = l.token + 1 from o where l.name = o.name
         returning l.token)
     select u.token as used, case when l.waited_for then pg_notify($3, $1) end, ",
    shown!(),
    " from o l, u, {m} m where m.id = 1"
);

const NEW_REALM: &str = "update {m} set realm = $1 where id = 1 returning realm";

/// Removes the rows of names that nobody has locked for a while. The floor is raised above their tokens first, in the same
/// transaction.
const PRUNE: &str = "set transaction isolation level read committed; set local synchronous_commit = 'on';
    update {m} set floor = greatest(floor, coalesce((select max(token) from {t} where expires_at < {since}), 0))
        where id = 1;
    delete from {t} where expires_at < {since} and token <= (select floor from {m} where id = 1)";

impl Sql {
    pub(crate) fn new(table: &Table) -> Sql {
        let make = |doing, sql: &str| Statement::new(doing, table.name_in(sql));
        Sql {
            meta: make("looking at the tables", META),
            request: make("asking for a lock", REQUEST),
            insert: make("asking for a lock", INSERT),
            announce: make("waiting for a lock", ANNOUNCE),
            renew: make("renewing", RENEW),
            renew_patiently: make("renewing", RENEW_PATIENTLY),
            release: make("releasing a lock", RELEASE),
            raise: make("raising a token", RAISE),
            inspect: make("looking at a lock", INSPECT),
            list: make("listing locks", LIST),
            revoke: make("breaking a lock", REVOKE),
            free: make("breaking a lock", FREE),
            new_realm: make("beginning a new realm", NEW_REALM),
            prune: table.name_in(PRUNE),
        }
    }
}
