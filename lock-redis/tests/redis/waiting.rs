//! Waiting without polling.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{Claim, LockStore};
use lock_testkit::{Proxy, RedisServer, WAIT_TIMEOUT, until};

use crate::fixture::{LONG, calls, grant, locks, name, open, server};

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
        assert!(started.elapsed() < WAIT_TIMEOUT, "waiters go on asking");
    }
    let clients = server.cli(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().filter(|line| line.contains(" sub=1 ")).count(), 1, "one waits for all: {clients}");
    a.release(&held, Duration::ZERO).await.unwrap();
    for waiter in waiters {
        tokio::time::timeout(WAIT_TIMEOUT, waiter).await.expect("all are served").unwrap().unwrap();
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
        // The release comes on a connection that was killed too; the store says so, and is asked
        // again.
        while a.release(&held, Duration::ZERO).await.is_err() {}
        let served = tokio::time::timeout(WAIT_TIMEOUT, waiter).await.expect("long before the lease would have ended");
        served.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_waited_for_at_the_same_time_are_listened_to_together() {
    const COUNT: usize = 1_000;
    let server = server();
    let link = Proxy::to(server.port());
    let (a, b) = (open(&server.url()).await, open(&format!("redis://127.0.0.1:{}", link.port())).await);
    let held: Vec<_> = (0..COUNT).map(|number| Claim::new(name(&format!("job {number}")), LONG)).collect();
    join_all(held.iter().map(|claim| a.request(claim))).await;
    link.delay(Duration::from_millis(10));
    let locks = locks(&b);
    let waiters: Vec<_> =
        held.iter().map(|claim| tokio::spawn(locks.lock(claim.name().as_str()).wait(LONG).acquire())).collect();
    until("all that listen", || (server.cli(&["PUBSUB", "CHANNELS"]).lines().count() == COUNT).then_some(()));
    assert!(calls(&server, "subscribe") < 50, "{} commands", calls(&server, "subscribe"));
    for release in join_all(held.iter().map(|claim| a.release(claim, Duration::ZERO))).await {
        release.unwrap();
    }
    for waiter in waiters {
        let guard = tokio::time::timeout(WAIT_TIMEOUT, waiter).await.expect("long before its lease would have ended");
        drop(guard.unwrap().unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_may_not_be_heard_keeps_no_other_from_being_heard() {
    let server = server();
    let rules = ["ACL", "SETUSER", "default", "resetchannels", "&lock:job*"];
    assert_eq!(server.cli(&rules), "OK");
    let store = open(&server.url()).await;
    let texts = ["denied", "job 1", "job 2", "job 3"];
    let waits = texts.map(|text| {
        let claim = Claim::new(name(text), LONG);
        let store = store.clone();
        async move {
            let held = lock_core::Contention::new(lock_core::HeldBy::default(), LONG);
            store.wait(&claim, &held).await
        }
    });
    let answers = join_all(waits).await;
    assert_eq!(answers[0].as_ref().unwrap_err().kind(), lock_core::ErrorKind::Denied);
    assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(server.cli(&["PUBSUB", "CHANNELS"]).lines().count(), 3);
}
