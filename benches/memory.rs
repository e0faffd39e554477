//! What the core itself costs: the store in memory answers at once.
//!
//! `cargo bench --bench memory`

#![allow(missing_docs, reason = "criterion's macros make undocumented functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use leasehold::{Locks, MemoryStore};

fn memory(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let locks = Locks::new(MemoryStore::new());
    criterion.bench_function("memory: uncontended acquire + release", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let guard = locks.lock("name").acquire().await.expect("it is free");
                guard.release().await.expect("it was held");
            });
        });
    });

    let mut held = Vec::new();
    runtime.block_on(async {
        for number in 0..10_000 {
            held.push(locks.lock(format!("held {number}")).acquire().await.expect("it is free"));
        }
    });
    criterion.bench_function("memory: the same beside 10,000 held locks", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let guard = locks.lock("name").acquire().await.expect("it is free");
                guard.release().await.expect("it was held");
            });
        });
    });
    let validity = held[0].validity();
    criterion.bench_function("asking a guard whether it is valid", |bencher| bencher.iter(|| validity.is_valid()));
}

criterion_group!(benches, memory);
criterion_main!(benches);
