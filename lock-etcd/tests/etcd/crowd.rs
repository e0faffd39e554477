//! Thousands of callers in one process: no lock is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lock_core::{Attempt, Claim, Clock, LockGuard, LockStore, Locks};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::{Etcd, WAIT_TIMEOUT};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::fixture::{secs, unique_name, until, within_bound};

/// Locks of a store with the time-outs that users have; a busy machine may take longer for a whole
/// crowd.
async fn locks(etcd: &Etcd, ttl: u64) -> Locks {
    let store = EtcdStore::connect(EtcdConfig::new(etcd.endpoints()), &Clock::system()).await.unwrap();
    Locks::builder_of(Arc::new(store)).ttl(secs(ttl)).wait(5 * WAIT_TIMEOUT).call_timeout(WAIT_TIMEOUT).build()
}

/// Number of keys with this prefix.
fn count_keys(etcd: &Etcd, prefix: &str) -> usize {
    let output =
        etcd.etcdctl().args(["get", "--prefix", "--keys-only", "--limit", "1", "-w", "json", prefix]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // Etcd writes no zeros.
    text.split_once("\"count\":")
        .map_or(0, |(_, count)| count.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap())
}

/// Acquires this number of locks, some of them at a time.
async fn acquire_many(locks: &Locks, prefix: &str, count: usize) -> Vec<LockGuard> {
    let (mut tasks, limit) = (JoinSet::new(), Arc::new(Semaphore::new(200)));
    for i in 0..count {
        let (lock, limit) = (locks.lock(format!("{prefix}-{i}")), limit.clone());
        tasks.spawn(async move {
            let _turn = limit.acquire().await.unwrap();
            lock.acquire().await.unwrap()
        });
    }
    within_bound("the grants", tasks.join_all()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_hundred_waiters_for_one_name_cost_their_process_no_lock() {
    const WAITERS: usize = 1_500;
    let etcd = Etcd::start(1);
    let locks = locks(&etcd, 20).await;
    let holder = locks.lock("job").acquire().await.unwrap();
    let other = locks.lock("other").acquire().await.unwrap();
    let began = std::time::Instant::now();
    let (mut waiters, failed, served) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    for _ in 0..WAITERS {
        let (lock, failed, served) = (locks.lock("job"), failed.clone(), served.clone());
        waiters.spawn(async move {
            match lock.acquire().await {
                Ok(guard) => {
                    guard.release().await.unwrap();
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    println!("{error}");
                    failed.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    let has_failed = || failed.load(Ordering::Relaxed) > 0;
    until("their places", || async { has_failed() || count_keys(&etcd, "job/") == WAITERS + 1 }).await;
    println!("all in line after {:?}", began.elapsed());
    within_bound("a renewal", holder.renew()).await.unwrap();
    assert!(holder.is_valid() && other.is_valid(), "{:?}, {:?}", holder.check(), other.check());
    holder.release().await.unwrap();
    until("some turns", || async { has_failed() || served.load(Ordering::Relaxed) >= 100 }).await;
    assert!(!has_failed(), "waiters were refused");
    // The others go away at once.
    waiters.shutdown().await;
    until("the end of their places", || async { count_keys(&etcd, "job/") == 0 }).await;
    println!("all gone after {:?}", began.elapsed());
    assert!(other.is_valid(), "{:?}", other.check());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_names_are_released_at_once() {
    let etcd = Etcd::start(1);
    let locks = locks(&etcd, 20).await;
    let other = locks.lock("other").acquire().await.unwrap();
    let mut tasks = JoinSet::new();
    let guards = acquire_many(&locks, "job", 3_000).await;
    assert_eq!(count_keys(&etcd, "job"), 3_000);
    for guard in guards {
        tasks.spawn(guard.release());
    }
    let released = within_bound("the releases", tasks.join_all()).await;
    let failed: Vec<_> = released.into_iter().filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{} failed: {}", failed.len(), failed[0]);
    assert_eq!(count_keys(&etcd, "job"), 0);
    assert!(other.is_valid(), "{:?}", other.check());
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_guards_are_dropped_at_once() {
    let etcd = Etcd::start(1);
    let locks = locks(&etcd, 20).await;
    let other = locks.lock("other").acquire().await.unwrap();
    let guards = acquire_many(&locks, "job", 5_000).await;
    assert_eq!(count_keys(&etcd, "job"), 5_000);
    drop(guards);
    until("their end", || async { count_keys(&etcd, "job") == 0 }).await;
    within_bound("the end of all withdrawals", locks.close()).await;
    assert!(other.is_valid(), "{:?}", other.check());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_still_runs_at_a_slow_member_is_not_asked_again() {
    let etcd = Etcd::start(1);
    let mut config = EtcdConfig::new(etcd.proxy_endpoints());
    config.response_timeout = std::time::Duration::from_millis(200);
    let store = EtcdStore::connect(config, &Clock::system()).await.unwrap();
    let claim = |what| Claim::new(unique_name(what), secs(60));
    assert!(matches!(store.request(&claim("session")).await.unwrap(), Attempt::Granted(_)));
    let before = etcd.transactions();
    etcd.member(0).proxy().delay(std::time::Duration::from_millis(150));
    assert!(matches!(store.request(&claim("slow")).await.unwrap(), Attempt::Granted(_)));
    assert_eq!(etcd.transactions() - before, 1, "it was asked again while it ran");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_who_stopped_polling_hold_nobody_up_for_ever() {
    let etcd = Etcd::start(1);
    let mut config = EtcdConfig::new(etcd.proxy_endpoints());
    config.response_timeout = std::time::Duration::from_millis(200);
    let store = EtcdStore::connect(config, &Clock::system()).await.unwrap();
    let claim = |what| Claim::new(unique_name(what), secs(60));
    assert!(matches!(store.request(&claim("session")).await.unwrap(), Attempt::Granted(_)));
    etcd.member(0).proxy().hold();
    let claims: Vec<_> = (0..300).map(|_| claim("stopped")).collect();
    let mut all = Box::pin(futures_util::future::join_all(claims.iter().map(|claim| store.request(claim))));
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), &mut all).await.is_err());
    etcd.member(0).proxy().forward();
    let next = claim("next");
    until("a grant", || async {
        match store.request(&next).await {
            Ok(attempt) => matches!(attempt, Attempt::Granted(_)),
            Err(error) => !error.is_retryable() && panic!("{error:?}"),
        }
    })
    .await;
    drop(all);
}
