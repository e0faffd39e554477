//! A lock in PostgreSQL, beside an upsert and an update with the same keys, over as many
//! connections.

use std::time::Duration;

use leasehold::Locks;
use lock_testkit::{PgBouncer, PostgresServer};
use sqlx::postgres::{PgPool, PgPoolOptions};

use crate::locks::{hold_many, own_names, renew_many};
use crate::measure::{compare, rate, repeat};

const TASKS: usize = 64;
const CONNECTIONS: u32 = 16;

const TABLE: &str = "create table bare (name text collate \"C\" primary key, holder text, token bigint not null,
    expires_at timestamptz not null, unique (name, token)) with (fillfactor = 70)";
const UPSERT: &str = "insert into bare (name, holder, token, expires_at)
    values ($1, $2, 1, clock_timestamp() + interval '30 s')
    on conflict (name) do update set holder = excluded.holder, token = bare.token + 1, expires_at = excluded.expires_at
    where bare.holder is null or bare.expires_at <= clock_timestamp() returning token";
const UPDATE: &str = "update bare set holder = null where name = $1 and holder = $2";

pub(crate) async fn run() {
    let server = PostgresServer::start(&[]);
    server.psql(TABLE);
    let url = |server: String| format!("{server}?connections={CONNECTIONS}");
    let direct = url(server.url());
    leasehold::registry().init(&direct.parse().expect("a URL")).await.expect("the table is made");
    let locks = leasehold::connect(direct).await.expect("a store");
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
    let pool = pool.connect(&server.url()).await.expect("a pool");
    let other = "an upsert and an update";
    for (tasks, what) in [(1, "1 task"), (TASKS, "64 tasks, a name each")] {
        let (ours, bare) = (async || own_names(&locks, tasks).await, async || bare_rate(&pool, tasks).await);
        compare(what, ours, other, bare).await;
    }
    let pooler = PgBouncer::start(&server);
    let pooled = leasehold::connect(url(pooler.url())).await.expect("a store");
    let (ours, bare) = (async || own_names(&pooled, TASKS).await, async || bare_rate(&pool, TASKS).await);
    compare("64 tasks, a name each, through a pooler", ours, "the same without it", bare).await;
    renewals(&locks).await;
}

async fn bare_rate(pool: &PgPool, tasks: usize) -> f64 {
    rate(tasks, |number, until| {
        let (pool, name) = (pool.clone(), format!("job {number}"));
        async move { repeat(until, || bare_cycle(&pool, &name)).await }
    })
    .await
}

async fn bare_cycle(pool: &PgPool, name: &str) {
    let holder = "0123456789abcdef0123456789abcdef";
    let acquired = sqlx::query(UPSERT).bind(name).bind(holder).fetch_optional(pool).await.expect("it is done");
    assert!(acquired.is_some(), "it is free");
    sqlx::query(UPDATE).bind(name).bind(holder).execute(pool).await.expect("it is done");
}

async fn renewals(locks: &Locks) {
    let ttl = Duration::from_secs(30);
    let guards = hold_many(locks, ttl).await;
    renew_many(&guards, ttl).await;
    drop(guards);
    locks.close().await;
}
