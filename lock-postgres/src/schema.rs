//! The layout of the tables, and the script that creates them.

use lock_core::random;

use crate::config::{Mode, PostgresConfig};
use crate::table::Table;

/// The layout version of this program.
pub(crate) const VERSION: i32 = 2;

/// The script. Free rows stay until they are pruned, so that their tokens go on rising. The fence
/// depends on `unique (name, token)`: because the token is part of a key, a statement that changes
/// it waits for transactions that have read the row `for key share`, and a renewal does not. There
/// is no index on `expires_at`, which each renewal would have to update.
const SCHEMA: &str = "begin;
set local search_path = pg_catalog, pg_temp;
-- Two who do this at once do it one after the other.
select pg_advisory_xact_lock(hashtext('leasehold'));
create schema if not exists \"{schema}\";
create table if not exists {m} (
    id integer primary key check (id = 1),
    version integer not null,
    mode text not null,
    realm text not null,
    floor bigint not null,
    pruned_to text not null default '',
    standby_seen timestamptz
);
create table if not exists {t} (
    name text collate \"C\" primary key,
    holder text,
    token bigint not null check (token > 0),
    since timestamptz not null,
    expires_at timestamptz not null,
    info text,
    revoked boolean not null default false,
    waited_for boolean not null default false,
    place text,
    unique (name, token)
) with ({settings});
insert into {m} (id, version, mode, realm, floor)
    values (1, {version}, '{mode}', '{realm}', 0) on conflict do nothing;
-- What tables of layout 1 lack.
do $$ begin
    if (select version from {m} where id = 1) < {version} then
        alter table {m} add column pruned_to text not null default '', add column standby_seen timestamptz;
        alter table {t} set ({settings});
        update {m} set version = {version} where id = 1;
    end if;
end $$;
commit;
";

/// Storage options. The server vacuums early, since each change leaves a dead row; and it does not
/// truncate the file, for which it would lock the whole table.
const TABLE_OPTIONS: &str = "fillfactor = 70, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off";

/// The statements that create the tables of this configuration, or migrate those of an older
/// layout. They are idempotent.
pub(crate) fn script(config: &PostgresConfig) -> String {
    let table = &config.table;
    let schema = match table.schema() {
        // It exists, and not every user may create a schema.
        "public" => SCHEMA.replace("create schema if not exists \"{schema}\";\n", ""),
        other => SCHEMA.replace("{schema}", other),
    };
    table
        .with_names(&schema)
        .replace("{settings}", TABLE_OPTIONS)
        .replace("{version}", &VERSION.to_string())
        .replace("{mode}", mode(config.mode))
        .replace("{realm}", &random::hex128())
}

/// The text for the mode in the table. A table belongs to one mode, since the two do not exclude
/// each other.
pub(crate) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Rows => "rows",
        Mode::Advisory(_) => "advisory",
    }
}

/// The reason why tables of this version and mode cannot be used, if there is one.
pub(crate) fn mismatch(table: &Table, wanted: Mode, version: i32, found: &str) -> Option<String> {
    if version > VERSION {
        return Some(format!(
            "the table {table} has the newer layout {version}, and this program knows {VERSION}; use a newer program, or another table"
        ));
    }
    if version < VERSION {
        return Some(format!(
            "the table {table} has the older layout {version}: `leasehold init URL` brings it up to date, and keeps what is in it"
        ));
    }
    let wanted = mode(wanted);
    (wanted != found).then(|| {
        format!("the table {table} is for mode={found}, and would not exclude in mode={wanted}; use another table")
    })
}
