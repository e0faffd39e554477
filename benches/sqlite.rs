//! What a lock in a file costs, against what SQLite itself costs on the same disk: an acquire and a
//! release are two transactions, and each is one synced write.
//!
//! `cargo bench --features sqlite --bench sqlite`; the figure to look at is `bare` divided by
//! `acquire and release`.

#![allow(missing_docs, reason = "criterion makes undocumented items")]

use std::path::Path;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use leasehold::sqlite::{SqliteConfig, SqliteStore};
use leasehold::store::{Claim, Clock, LockName, LockStore, Locks, RenewalBatch};
use rusqlite::Connection;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

async fn open(folder: &Path) -> SqliteStore {
    SqliteStore::open(SqliteConfig::new(folder.join("locks.db"))).await.expect("the file is made")
}

/// Twice `begin immediate; update; commit`: the least that an acquire and a release can be.
fn bare(criterion: &mut Criterion, folder: &Path) {
    let db = Connection::open(folder.join("bare.db")).expect("the file is made");
    db.execute_batch(
        "pragma journal_mode = wal; pragma synchronous = full;
         create table lease(name text primary key, holder blob, token integer) strict, without rowid;
         insert into lease values ('x', null, 0)",
    )
    .expect("the table is made");
    let mut begin = db.prepare("begin immediate").expect("it is SQL");
    let mut update = db.prepare("update lease set token = token + 1 where name = 'x'").expect("it is SQL");
    let mut commit = db.prepare("commit").expect("it is SQL");
    criterion.bench_function("sqlite/bare: two transactions", |bencher| {
        bencher.iter(|| {
            for _ in 0..2 {
                for statement in [&mut begin, &mut update, &mut commit] {
                    statement.execute([]).expect("it is done");
                }
            }
        });
    });
}

fn one_at_a_time(criterion: &mut Criterion, folder: &Path) {
    let runtime = runtime();
    let locks = runtime.block_on(async { Locks::new(open(folder).await) });
    let lock = locks.lock("x");
    criterion.bench_function("sqlite/acquire and release", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let guard = lock.acquire().await.expect("it is free");
                guard.release().await.expect("it was held");
            });
        });
    });
}

/// Many at once share the cost of a sync.
fn many_at_once(criterion: &mut Criterion, folder: &Path) {
    const MANY: u64 = 256;
    let runtime = runtime();
    let locks = runtime.block_on(async { Locks::new(open(folder).await) });
    let mut group = criterion.benchmark_group("sqlite");
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("256 acquires and releases at once", |bencher| {
        bencher.iter_custom(|rounds| {
            runtime.block_on(async {
                let started = Instant::now();
                for _ in 0..rounds {
                    let tasks: Vec<_> = (0..MANY)
                        .map(|n| {
                            let lock = locks.lock(format!("many-{n}"));
                            tokio::spawn(async move {
                                let guard = lock.acquire().await.expect("it is free");
                                guard.release().await.expect("it was held");
                            })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no task panics");
                    }
                }
                started.elapsed()
            })
        });
    });
    group.finish();
}

fn renewals(criterion: &mut Criterion, folder: &Path) {
    const LEASES: u64 = 512;
    let runtime = runtime();
    let store = runtime.block_on(open(folder));
    let claims: Vec<_> = (0..LEASES)
        .map(|n| Claim::new(LockName::new(format!("renewed-{n}")).expect("it is a name"), Duration::from_secs(3600)))
        .collect();
    for claim in &claims {
        runtime.block_on(store.request(claim)).expect("it is free");
    }
    let mut group = criterion.benchmark_group("sqlite");
    group.throughput(Throughput::Elements(LEASES));
    group.bench_function("512 renewals in one batch", |bencher| {
        bencher.iter_batched(
            || RenewalBatch::new(&Clock::system(), claims.iter().cloned()),
            |batch| {
                _ = runtime.block_on(store.renew(&batch));
                assert!(batch.iter().all(|entry| entry.outcome().is_some()));
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

fn sqlite(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder is made");
    bare(criterion, folder.path());
    one_at_a_time(criterion, folder.path());
    many_at_once(criterion, folder.path());
    renewals(criterion, folder.path());
}

criterion_group!(benches, sqlite);
criterion_main!(benches);
