//! Loads on locks, the same for every store.

use std::time::{Duration, Instant};

use leasehold::{LockGuard, Locks};

use crate::measure::{rate, repeat};

/// Number of locks that are held at the same time.
pub(crate) const HELD: usize = 10_000;

/// Cycles per second of this many tasks, each with a name of its own.
pub(crate) async fn own_names(locks: &Locks, tasks: usize) -> f64 {
    cycles(locks, tasks, |number| format!("of many {number}")).await
}

/// Cycles per second of this many tasks on one name.
pub(crate) async fn one_name(locks: &Locks, tasks: usize) -> f64 {
    cycles(locks, tasks, |_| "contended".to_owned()).await
}

async fn cycles(locks: &Locks, tasks: usize, name: impl Fn(usize) -> String) -> f64 {
    rate(tasks, |number, until| {
        let lock = locks.lock(name(number));
        async move {
            repeat(until, || async {
                lock.acquire().await.expect("it becomes free").release().await.expect("it was held");
            })
            .await
        }
    })
    .await
}

/// Acquires many locks, by a hundred tasks, and prints how long that took.
pub(crate) async fn hold_many(locks: &Locks, ttl: Duration) -> Vec<LockGuard> {
    let started = Instant::now();
    let tasks: Vec<_> = (0..100)
        .map(|task| {
            let locks = locks.clone();
            tokio::spawn(async move {
                let mut guards = Vec::with_capacity(HELD / 100);
                for number in 0..HELD / 100 {
                    let lock = locks.lock(format!("held/{task}/{number}")).ttl(ttl);
                    guards.push(lock.acquire().await.expect("it is free"));
                }
                guards
            })
        })
        .collect();
    let mut guards = Vec::with_capacity(HELD);
    for task in tasks {
        guards.extend(task.await.expect("a task ends"));
    }
    println!("  {HELD} locks acquired in {:.1?}", started.elapsed());
    guards
}

/// Prints how many of these locks are still valid after two rounds of renewals.
pub(crate) async fn renew_many(guards: &[LockGuard], ttl: Duration) {
    // A lease is renewed when a third of its TTL has passed.
    tokio::time::sleep(ttl).await;
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    println!("  {valid} of {} are valid after one TTL of renewals", guards.len());
}
