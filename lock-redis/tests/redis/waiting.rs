//! Waiting without asking again and again.

use std::time::Duration;

use lock_core::{Claim, LockStore};
use lock_testkit::{BOUND, RedisServer, until};

use crate::bed::{LONG, calls, grant, locks, name, open, server};

fn listens(server: &RedisServer) {
    until("a waiter that listens", || server.cli(&["PUBSUB", "CHANNELS"]).contains("lock:job").then_some(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_do_not_ask_while_nothing_happens() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    let held = Claim::new(name("job"), LONG);
    grant(&a, &held).await;
    let locks = locks(&b);
    let served = |locks: &lock_core::Locks| {
        let lock = locks.lock("job").wait(LONG);
        async move { lock.acquire().await?.release().await }
    };
    let waiters: Vec<_> = (0..16).map(|_| tokio::spawn(served(&locks))).collect();
    listens(&server);
    let settled = || async {
        let before = calls(&server, "evalsha");
        tokio::time::sleep(Duration::from_millis(500)).await;
        calls(&server, "evalsha") == before
    };
    let started = std::time::Instant::now();
    while !settled().await {
        assert!(started.elapsed() < BOUND, "waiters go on asking");
    }
    let clients = server.cli(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().filter(|line| line.contains(" sub=1 ")).count(), 1, "one waits for all: {clients}");
    a.release(&held).await.unwrap();
    for waiter in waiters {
        tokio::time::timeout(BOUND, waiter).await.expect("all are served").unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_subscription_loses_no_wake_up() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    for _ in 0..3 {
        let held = Claim::new(name("job"), LONG);
        grant(&a, &held).await;
        let waiter = tokio::spawn(locks(&b).lock("job").wait(LONG).acquire());
        listens(&server);
        server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        // The release comes on a connection that was killed too; the store says so, and is asked again.
        while a.release(&held).await.is_err() {}
        let served = tokio::time::timeout(BOUND, waiter).await.expect("long before the lease would have ended");
        served.unwrap().unwrap().release().await.unwrap();
    }
}
