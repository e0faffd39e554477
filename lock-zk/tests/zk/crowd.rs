//! Many tasks of one process at once: their load costs the process no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lock_core::{LockGuard, Locks};
use lock_testkit::ZooKeeper;
use tokio::task::JoinSet;

use crate::fixture::{locks, secs, within_bound};

/// Short: a heartbeat that waits for all requests of the crowd comes too late.
const TTL: Duration = secs(6);

/// Acquires this number of locks.
async fn acquire_many(locks: &Locks, count: usize) -> Vec<LockGuard> {
    let mut acquiring = JoinSet::new();
    for task in 0..50 {
        let locks = locks.clone();
        acquiring.spawn(async move {
            let mut guards = Vec::new();
            for i in (task..count).step_by(50) {
                guards.push(locks.lock(format!("many/{i}")).acquire().await.unwrap());
            }
            guards
        });
    }
    acquiring.join_all().await.into_iter().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_hundred_waiters_for_one_name_cost_its_holder_nothing() {
    let zookeeper = ZooKeeper::start(1);
    let locks = locks(zookeeper.endpoints(), TTL).await;
    let holder = locks.lock("hot").acquire().await.unwrap();
    let notified = Arc::new(AtomicUsize::new(0));
    let mut waiters = JoinSet::new();
    for _ in 0..1_500 {
        let notified = notified.clone();
        let on_wait = move |_: &_| {
            notified.fetch_add(1, Ordering::Relaxed);
        };
        waiters.spawn(locks.lock("hot").on_wait(on_wait).acquire());
    }
    let until = Instant::now() + 4 * TTL;
    while notified.load(Ordering::Relaxed) < 1_500 || Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(holder.is_valid(), "{:?} after {}", holder.check(), notified.load(Ordering::Relaxed));
    }
    holder.release().await.unwrap();
    let next = within_bound("the next holder", waiters.join_next()).await.unwrap().unwrap().unwrap();
    assert!(next.is_valid());
}

#[tokio::test(flavor = "multi_thread")]
async fn releasing_three_thousand_locks_at_once_costs_another_nothing() {
    let zookeeper = ZooKeeper::start(1);
    let locks = locks(zookeeper.endpoints(), TTL).await;
    let stays = locks.lock("stays").acquire().await.unwrap();
    let guards = acquire_many(&locks, 3_000).await;
    let mut releasing: JoinSet<_> = guards.into_iter().map(LockGuard::release).collect();
    while let Some(released) = within_bound("a release", releasing.join_next()).await {
        if let Err(error) = released.unwrap() {
            // On a busy machine the last one may wait too long for its permit. No lock is lost.
            assert!(error.is_retryable(), "{error:?}");
        }
        assert!(stays.is_valid(), "{:?}", stays.check());
    }
    stays.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_four_thousand_guards_at_once_costs_another_nothing() {
    let zookeeper = ZooKeeper::start(1);
    let locks = locks(zookeeper.endpoints(), TTL).await;
    let stays = locks.lock("stays").acquire().await.unwrap();
    drop(acquire_many(&locks, 4_000).await);
    let closing = within_bound("the end of all", locks.close());
    let watching = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            assert!(stays.is_valid(), "{:?}", stays.check());
        }
    };
    tokio::select! {
        () = closing => {}
        () = watching => {}
    }
    stays.release().await.unwrap();
}
