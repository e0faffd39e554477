//! [`Statements`]: the SQL for lease rows. Each statement checks and acts in one step.
//!
//! Each runs in a transaction of its own, READ COMMITTED: a statement that waited for a row
//! evaluates its conditions again on the new version. No statement that grants waits. Times are
//! those of the server's clock at the moment when the row is read: `now()` would be the start of
//! the transaction.

use crate::statement::Statement;
use crate::table::Table;

/// The statements for one table.
#[derive(Clone, Debug)]
pub(crate) struct Statements {
    pub(crate) meta: Statement,
    pub(crate) request: SingleOrBatch,
    pub(crate) insert: SingleOrBatch,
    pub(crate) register_waiter: Statement,
    pub(crate) renew: Statement,
    pub(crate) renew_blocking: Statement,
    pub(crate) release: Statement,
    pub(crate) release_batch: Statement,
    pub(crate) release_blocking: Statement,
    pub(crate) raise: Statement,
    pub(crate) inspect: Statement,
    pub(crate) list: Statement,
    pub(crate) revoke: Statement,
    pub(crate) free: Statement,
    pub(crate) new_realm: Statement,
    /// Prunes rows after `$3`.
    pub(crate) prune: Statement,
    /// Prunes rows after those that any process visited last.
    pub(crate) prune_next: Statement,
}

/// A statement for one claim, and the same for a batch. The text differs only in the source of the
/// claims, so that the rule is the same, and a single request costs no more than it must.
#[derive(Clone, Debug)]
pub(crate) struct SingleOrBatch {
    pub(crate) single: Statement,
    pub(crate) batch: Statement,
}

/// The columns that every row is returned with: the holder, and the times in microseconds.
macro_rules! row_columns {
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

/// The source of claims: `$1` the names, `$2` the holders, `$3` the TTLs, `$4` the holder
/// information.
const SINGLE_CLAIM: &str = "not materialized (
         select $1::text as name, $2::text as holder, $3::bigint as ttl, $4::text as info, 1::bigint as entry)";
const CLAIM_BATCH: &str = "materialized (
         select * from unnest($1::text[], $2::text[], $3::bigint[], $4::text[])
             with ordinality as w(name, holder, ttl, info, entry))";

/// Grants a lock that is free, has expired, or is the claim's own; else returns the row of its
/// holder. Nothing is returned for a name that has no row yet. Rows that another transaction has
/// locked are skipped: a statement that waits could be granted after its caller gave up. The claims
/// of a batch have different names.
const REQUEST: &str = concat!(
    "with w as {claims},
     c as materialized (
         select l.name, w.entry from w join {t} l on l.name = w.name
         where l.holder is null or l.holder = w.holder or l.expires_at <= clock_timestamp()
         for update of l skip locked),
     u as (
         update {t} l set
             holder = w.holder,
             token = case when l.holder = w.holder then l.token else l.token + 1 end,
             since = case when l.holder = w.holder then l.since else clock_timestamp() end,
             waited_for = case when l.holder = w.holder then l.waited_for else false end,
             info = w.info,
             revoked = false,
             expires_at = clock_timestamp() + w.ttl * interval '1 microsecond'
         from c join w on w.entry = c.entry where l.name = c.name
         returning l.*, w.entry)
     select l.entry, true as granted, ",
    row_columns!(),
    " from u l, {m} m where m.id = 1
     union all
     select w.entry, false as granted, ",
    row_columns!(),
    " from w join {t} l on l.name = w.name, {m} m where m.id = 1 and not exists (select from u where u.entry = w.entry)"
);

/// Inserts the first row of a name. Its token is above those of all rows that were removed. The
/// floor is read under a lock that pruning waits for, and only if there is no row; a plain upsert
/// could insert too low a token. Rows are inserted in the order of their names, so that two
/// statements cannot deadlock.
const INSERT: &str = concat!(
    "with w as {claims},
     i as (
         insert into {t} (name, holder, token, since, expires_at, info)
         select w.name, w.holder, f.floor + 1, clock_timestamp(),
             clock_timestamp() + w.ttl * interval '1 microsecond', w.info
         from w, (select floor from {m} where id = 1 for share) f
         where not exists (select from {t} l where l.name = w.name)
         order by w.name
         on conflict do nothing
         returning *)
     select w.entry, true as granted, ",
    row_columns!(),
    " from i l join w on w.name = l.name, {m} m where m.id = 1"
);

/// Registers a waiter on the lease that was seen; returns whether one is registered now. If so, the
/// lock has not been released yet, and the release will send a notification.
const REGISTER_WAITER: &str = "with u as (
        update {t} set waited_for = true
        where name = $1 and holder = $2 and not waited_for and expires_at > clock_timestamp() returning 1)
    select exists (select from u)
        or exists (select from {t} where name = $1 and holder = $2 and waited_for) as announced";

/// Renews leases that are held and have not expired. A row that another transaction has locked is
/// left out, so that it does not delay the others: it is neither renewed nor lost.
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

/// The same for rows that were locked: it waits for them, up to `lock_timeout`. Rows are locked in
/// the order of their names, so that two statements cannot deadlock.
const RENEW_BLOCKING: &str = "with w as materialized (
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

/// Releases a lock. It sends a notification only if a waiter is registered: all notifications of a
/// server go through one queue.
const RELEASE: &str = "with u as (
        update {t} set holder = null, info = null, revoked = false
        where name = $1 and holder = $2 returning expires_at > clock_timestamp() as held, waited_for)
    select 1::bigint as entry, held, false as locked, case when waited_for then pg_notify($3, $1) end from u";

/// The same for a batch. A row that another transaction has locked is left out, so that it does not
/// delay the others.
const RELEASE_BATCH: &str = "with w as materialized (
        select * from unnest($1::text[], $2::text[]) with ordinality as w(name, holder, entry)),
    c as materialized (
        select l.name from w join {t} l on l.name = w.name and l.holder = w.holder
        for no key update of l skip locked),
    u as (
        update {t} l set holder = null, info = null, revoked = false
        from c join w on w.name = c.name where l.name = c.name and l.holder = w.holder
        returning w.entry, l.name, l.expires_at > clock_timestamp() as held, l.waited_for)
    select w.entry, u.held, case when u.waited_for then pg_notify($3, u.name) end,
        u.entry is null and exists (select from {t} l where l.name = w.name and l.holder = w.holder) as locked
    from w left join u on u.entry = w.entry";

/// The same for rows that were locked: it waits for them, up to `lock_timeout`.
const RELEASE_BLOCKING: &str = "with w as materialized (
        select * from unnest($1::text[], $2::text[]) with ordinality as w(name, holder, entry)),
    c as materialized (
        select l.name from w join {t} l on l.name = w.name and l.holder = w.holder
        order by l.name
        for no key update of l),
    u as (
        update {t} l set holder = null, info = null, revoked = false
        from c join w on w.name = c.name where l.name = c.name and l.holder = w.holder
        returning w.entry, l.name, l.expires_at > clock_timestamp() as held, l.waited_for)
    select w.entry, u.held, case when u.waited_for then pg_notify($3, u.name) end, false as locked
    from w left join u on u.entry = w.entry";

/// Raises the token of a lease that is held and has not expired.
const RAISE: &str = "with u as (
        update {t} set token = greatest(token, $3)
        where name = $1 and holder = $2 and token <= $3 and expires_at > clock_timestamp() returning 1)
    select exists (select from u) as raised";

const INSPECT: &str = concat!(
    "select ",
    row_columns!(),
    " from {t} l, {m} m where m.id = 1 and l.name = $1 and l.holder is not null and l.expires_at > clock_timestamp()"
);

const LIST: &str = concat!(
    "select l.name, ",
    row_columns!(),
    " from {t} l, {m} m where m.id = 1 and l.name > $1 and l.holder is not null and l.expires_at > clock_timestamp()
     order by l.name limit $2"
);

/// Uses up a token and puts a holder that does not exist in the row, until the lease would have
/// ended. It waits for a transaction that is fenced by this lease.
const REVOKE: &str = concat!(
    "with o as materialized (
         select * from {t} where name = $1 and holder = $2 and expires_at > clock_timestamp() for update),
     u as (
         update {t} l set holder = $3, token = l.token + 1, revoked = true from o where l.name = o.name
         returning l.token)
     select u.token as used, ",
    row_columns!(),
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
    row_columns!(),
    " from o l, u, {m} m where m.id = 1"
);

const NEW_REALM: &str = "update {m} set realm = $1 where id = 1 returning realm";

/// One step of pruning: of the next `$2` rows in the order of names, removes those that nobody has
/// locked for `$1` microseconds. The floor is raised to their tokens in the same transaction, so
/// that no token is given twice. A row that another transaction has locked stays. A statement that
/// reads the floor waits only for this small step.
const PRUNE: &str = "with w as materialized (
        select l.name from {t} l where l.name > {after} order by l.name limit $2),
    c as materialized (
        select l.name, l.token from w join {t} l on l.name = w.name
        where l.expires_at < clock_timestamp() - $1 * interval '1 microsecond'
        for update of l skip locked),
    s as (select case when count(*) < $2 then '' else max(name) end as last from w),
    f as (
        update {m} m set floor = greatest(m.floor, (select max(token) from c)), pruned_to = {pruned_to}
        from s where m.id = 1 and {if_needed}
        returning m.floor),
    d as (
        delete from {t} l using c, f where l.name = c.name and l.token <= f.floor returning 1)
    select s.last, (select count(*) from d) as removed from s";

impl SingleOrBatch {
    fn new(action: &'static str, sql: &str) -> SingleOrBatch {
        let of = |claims| Statement::new(action, sql.replace("{claims}", claims));
        SingleOrBatch { single: of(SINGLE_CLAIM), batch: of(CLAIM_BATCH) }
    }
}

impl Statements {
    pub(crate) fn new(table: &Table) -> Statements {
        let make = |action, sql: &str| Statement::new(action, table.with_names(sql));
        let of_claims = |action, sql: &str| SingleOrBatch::new(action, &table.with_names(sql));
        let prune = |after: &str, pruned_to: &str, if_needed: &str| {
            let sql = PRUNE.replace("{after}", after).replace("{pruned_to}", pruned_to);
            make("removing old rows", &sql.replace("{if_needed}", if_needed))
        };
        Statements {
            meta: make("looking at the tables", META),
            request: of_claims("asking for a lock", REQUEST),
            insert: of_claims("asking for a lock", INSERT),
            register_waiter: make("waiting for a lock", REGISTER_WAITER),
            renew: make("renewing", RENEW),
            renew_blocking: make("renewing", RENEW_BLOCKING),
            release: make("releasing a lock", RELEASE),
            release_batch: make("releasing a lock", RELEASE_BATCH),
            release_blocking: make("releasing a lock", RELEASE_BLOCKING),
            raise: make("raising a token", RAISE),
            inspect: make("looking at a lock", INSPECT),
            list: make("listing locks", LIST),
            revoke: make("breaking a lock", REVOKE),
            free: make("breaking a lock", FREE),
            new_realm: make("beginning a new realm", NEW_REALM),
            prune: prune("$3", "m.pruned_to", "exists (select from c)"),
            prune_next: prune("(select pruned_to from {m} where id = 1)", "s.last", "true"),
        }
    }
}
