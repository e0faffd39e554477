//! The PostgreSQL store against bare statements, on a real server.
//!
//! `cargo bench -p lock-postgres --bench postgres`; it prints rates and ratios, and asserts
//! nothing: the machine may be busy.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on shall panic")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use lock_core::{Locks, Registry};
use lock_postgres::{PostgresConfig, PostgresDriver, PostgresStore};
use lock_testkit::{PgBouncer, PostgresServer};
use sqlx::postgres::{PgPool, PgPoolOptions};

const ROUNDS: usize = 7;
const CYCLES: u32 = 300;
const TASKS: u32 = 64;
const EACH: u32 = 30;
const CONNECTIONS: u32 = 16;

/// The table of the bare statements, an upsert and an update, with the same keys.
const TABLE: &str = "create table bare (name text collate \"C\" primary key, holder text, token bigint not null,
    expires_at timestamptz not null, unique (name, token)) with (fillfactor = 70)";
const UPSERT: &str = "insert into bare (name, holder, token, expires_at)
    values ($1, $2, 1, clock_timestamp() + interval '30 s')
    on conflict (name) do update set holder = excluded.holder, token = bare.token + 1, expires_at = excluded.expires_at
    where bare.holder is null or bare.expires_at <= clock_timestamp() returning token";
const UPDATE: &str = "update bare set holder = null where name = $1 and holder = $2";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = PostgresServer::start(&[]);
    server.psql(TABLE);
    let url = format!("{}?connections={CONNECTIONS}", server.url());
    Registry::new().with(PostgresDriver).init(&url.parse().unwrap()).await.unwrap();
    let locks = open(&url).await;
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
    let pool = pool.connect(&server.url()).await.unwrap();
    one(&locks, &pool).await;
    many(&locks, &pool).await;
    let pooler = PgBouncer::start(&server);
    let pooled = open(&format!("{}?connections={CONNECTIONS}", pooler.url())).await;
    let through = all(TASKS, |task| cycles(pooled.clone(), task)).await;
    println!("{TASKS} tasks on {TASKS} names, through a pooler: {through:.0}/s");
    renewals(&locks).await;
}

async fn open(url: &str) -> Locks {
    let config = PostgresConfig::from_url(&url.parse().unwrap()).unwrap();
    Locks::new(PostgresStore::connect(config).await.unwrap())
}

/// One task, one name: acquire and release, against an upsert and an update.
async fn one(locks: &Locks, pool: &PgPool) {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(rate(CYCLES, || async { locks.lock("job").acquire().await.unwrap().release().await.unwrap() }).await);
        bare.push(rate(CYCLES, || bare_cycle(pool, "job")).await);
    }
    report("one task, one name", ours, bare);
}

/// As many tasks as names, against the same statements over as many connections.
async fn many(locks: &Locks, pool: &PgPool) {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(all(TASKS, |task| cycles(locks.clone(), task)).await);
        bare.push(all(TASKS, |task| bare_cycles(pool.clone(), task)).await);
    }
    report(&format!("{TASKS} tasks on {TASKS} names"), ours, bare);
}

fn report(what: &str, ours: Vec<f64>, bare: Vec<f64>) {
    let ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
    println!("{what}: {:.0}/s; upsert and update: {:.0}/s", median(ours), median(bare));
    println!("  ratio: {:.2} (0.9 is the aim)", median(ratios));
}

async fn bare_cycle(pool: &PgPool, name: &str) {
    let holder = "0123456789abcdef0123456789abcdef";
    assert!(sqlx::query(UPSERT).bind(name).bind(holder).fetch_optional(pool).await.unwrap().is_some());
    sqlx::query(UPDATE).bind(name).bind(holder).execute(pool).await.unwrap();
}

async fn bare_cycles(pool: PgPool, task: u32) {
    let name = format!("job {task}");
    for _ in 0..EACH {
        bare_cycle(&pool, &name).await;
    }
}

async fn cycles(locks: Locks, task: u32) {
    let lock = locks.lock(format!("job {task}"));
    for _ in 0..EACH {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}

/// Ten thousand renewed locks: how long one round of renewals takes.
async fn renewals(locks: &Locks) {
    let begun = Instant::now();
    let guards = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    all(100, |first| {
        let (locks, guards) = (locks.clone(), guards.clone());
        async move {
            for second in 0..100 {
                let name = format!("many/{}", first * 100 + second);
                let guard = locks.lock(name).ttl(Duration::from_secs(60)).acquire().await.unwrap();
                guards.lock().await.push(guard);
            }
        }
    })
    .await;
    let guards = std::mem::take(&mut *guards.lock().await);
    println!("{} renewed locks in {:.1?}", guards.len(), begun.elapsed());
    tokio::time::sleep(Duration::from_secs(45)).await;
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    println!("  after two rounds of renewals {valid} of them are valid");
    drop(guards);
    locks.close().await;
}

/// Cycles per second of so many tasks.
async fn all<F: Future<Output = ()> + Send + 'static>(tasks: u32, work: impl Fn(u32) -> F) -> f64 {
    let begun = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    (0..tasks).for_each(|task| drop(running.spawn(work(task))));
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    f64::from(tasks * EACH) / begun.elapsed().as_secs_f64()
}

async fn rate<F: Future<Output = ()>>(times: u32, cycle: impl Fn() -> F) -> f64 {
    let begun = Instant::now();
    for _ in 0..times {
        cycle().await;
    }
    f64::from(times) / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
