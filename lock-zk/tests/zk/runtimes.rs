//! A lease depends on no runtime: neither on the one that opened the store, nor on the one that
//! acquired first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lock_core::{LockName, Locks};
use lock_testkit::ZooKeeper;
use tokio::runtime::{Builder, Runtime};

use crate::fixture::{client, locks, nodes, secs, shared_server, unique_name, until, within_bound};

const TTL: Duration = secs(6);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A store that was opened and used on a runtime that has ended.
fn opened_elsewhere() -> Locks {
    let opening = || {
        runtime().block_on(async {
            let locks = locks(shared_server().endpoints(), TTL).await;
            // From its third use on, a lock node is watched.
            for _ in 0..4 {
                locks.lock("elsewhere").acquire().await.unwrap().release().await.unwrap();
            }
            locks
        })
    };
    std::thread::spawn(opening).join().unwrap()
}

/// Uses locks in every way, over three TTLs.
async fn assert_locks_work(locks: &Locks, name: &LockName) {
    locks.lock("elsewhere").acquire().await.unwrap().release().await.unwrap();
    let guard = locks.lock(name).acquire().await.unwrap();
    let waiter = tokio::spawn(locks.lock(name).acquire());
    let fixed = locks.lock(unique_name("fixed")).fixed().acquire().await.unwrap();
    fixed.release().await.unwrap();
    let until = Instant::now() + 3 * TTL;
    while Instant::now() < until {
        assert!(guard.is_valid(), "{:?}", guard.check());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
    let next = within_bound("the waiter's turn", waiter).await.unwrap().unwrap();
    assert!(locks.lock(name).try_acquire().await.unwrap().is_none());
    assert_eq!(locks.inspect(name).await.unwrap().pop().unwrap().holder, Some(next.holder()));
    next.release().await.unwrap();
}

#[tokio::test]
async fn after_the_end_of_the_runtime_that_opened_the_store_all_goes_on() {
    let locks = opened_elsewhere();
    assert_locks_work(&locks, &unique_name("opened")).await;
}

#[test]
fn who_has_a_runtime_without_timers_and_sockets_is_served() {
    let (_, name) = (shared_server(), unique_name("bare"));
    let locks = runtime().block_on(locks(shared_server().endpoints(), TTL));
    // It has neither timers nor sockets.
    let bare = Builder::new_current_thread().build().unwrap();
    let guard = bare.block_on(locks.lock(&name).acquire()).unwrap();
    std::thread::sleep(2 * TTL);
    assert!(guard.is_valid(), "{:?}", guard.check());
    bare.block_on(guard.release()).unwrap();
}

/// A runtime that holds a lock, has tasks in the middle of requests, and is not driven any more
/// until `over` is set.
fn start_idle_runtime(locks: &Locks, name: &LockName, over: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (locks, name, over) = (locks.clone(), name.clone(), over.clone());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = runtime();
        let guard = runtime.block_on(locks.lock(&name).acquire()).unwrap();
        for _ in 0..300 {
            let locks = locks.clone();
            runtime.spawn(async move {
                loop {
                    let cycle =
                        async { locks.lock(unique_name("in-the-middle")).ttl(TTL).acquire().await?.release().await };
                    cycle.await.unwrap();
                }
            });
        }
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });
        ready.send(()).unwrap();
        while !over.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(guard.is_valid(), "{:?}", guard.check());
    });
    is_ready.recv().unwrap();
    thread
}

#[tokio::test]
async fn while_a_runtime_is_idle_in_the_middle_of_its_tasks_all_goes_on_elsewhere() {
    let zookeeper = ZooKeeper::start(1);
    let locks = locks(zookeeper.endpoints(), TTL).await;
    let over = Arc::new(AtomicBool::new(false));
    let idle = start_idle_runtime(&locks, &unique_name("idle"), &over);
    let before = Instant::now();
    for _ in 0..10 {
        locks.lock(unique_name("next")).acquire().await.unwrap().release().await.unwrap();
    }
    assert!(before.elapsed() < 5 * TTL, "what an idle runtime has under way holds up others");
    assert_locks_work(&locks, &unique_name("beside")).await;
    over.store(true, Ordering::Relaxed);
    idle.join().unwrap();
}

#[tokio::test]
async fn guards_and_waiters_that_are_dropped_after_the_end_of_their_runtime_leave_nothing() {
    let (zookeeper, name) = (shared_server(), unique_name("orphans"));
    let locks = locks(zookeeper.endpoints(), secs(60)).await;
    let (own, elsewhere) = (locks.clone(), name.clone());
    let ended = std::thread::spawn(move || {
        let runtime = runtime();
        let guard = runtime.block_on(own.lock(&elsewhere).acquire()).unwrap();
        let mut waiter = Box::pin(own.lock(&elsewhere).acquire());
        runtime.block_on(async {
            assert!(tokio::time::timeout(Duration::from_millis(500), &mut waiter).await.is_err());
        });
        drop(runtime);
        drop(waiter);
        guard
    });
    let guard = tokio::task::spawn_blocking(|| ended.join().unwrap()).await.unwrap();
    let client = client(zookeeper).await;
    until("the waiter's end", || async { nodes(&client, name.as_str()).await.len() == 1 }).await;
    assert!(guard.is_valid());
    std::thread::spawn(move || drop(guard)).join().unwrap();
    until("the holder's end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    within_bound("the end of all", locks.close()).await;
}
