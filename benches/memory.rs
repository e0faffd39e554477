//! The cost of the core: the store in memory answers at once.
//!
//! `cargo bench --bench memory`

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use leasehold::{LockGuard, Locks, MemoryStore};

async fn cycles(locks: &Locks, count: u64) -> Duration {
    let start = Instant::now();
    for _ in 0..count {
        let guard = locks.lock("name").acquire().await.expect("it is free");
        guard.release().await.expect("it was held");
    }
    start.elapsed()
}

async fn hold(locks: &Locks, count: usize) -> Vec<LockGuard> {
    let mut held = Vec::with_capacity(count);
    for number in 0..count {
        held.push(locks.lock(format!("held {number}")).acquire().await.expect("it is free"));
    }
    held
}

fn memory(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let locks = Locks::new(MemoryStore::new());
    criterion.bench_function("memory: uncontended acquire + release", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(cycles(&locks, count)));
    });
    let held = runtime.block_on(hold(&locks, 10_000));
    criterion.bench_function("memory: the same beside 10,000 held locks", |bencher| {
        bencher.iter_custom(|count| runtime.block_on(cycles(&locks, count)));
    });
    let validity = held[0].validity();
    criterion.bench_function("asking a guard whether it is valid", |bencher| bencher.iter(|| validity.is_valid()));
}

criterion_group!(benches, memory);
criterion_main!(benches);
