//! Load of the process itself, which must not cost it the locks that it holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lock_core::{Attempt, Claim, Clock, LockStore, RenewalBatch, RenewalOutcome, Result, Space};
use lock_testkit::{WAIT_TIMEOUT, until};

use crate::fixture::{CountingProxy, LONG, calls, grant, locks, name, open, server};

fn claims(count: usize) -> Vec<Claim> {
    (0..count).map(|number| Claim::new(name(&format!("job {number}")), LONG)).collect()
}

/// Largest number of scripts in flight while replies are held.
fn max_in_flight(proxy: &CountingProxy) -> usize {
    let mut in_flight = 0;
    until("something under way", || {
        in_flight += proxy.scripts();
        (in_flight > 0).then_some(())
    });
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(10));
        in_flight += proxy.scripts();
    }
    in_flight
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_long_a_server_takes_only_so_much_is_under_way_there() {
    let server = server();
    let proxy = CountingProxy::to(&server);
    let store = open(&format!("{}?response_timeout=60s", proxy.url())).await;
    let held = Claim::new(name("held"), LONG);
    grant(&store, &held).await;
    let renew = || async {
        let batch = RenewalBatch::new(&Clock::system(), [held.clone()]);
        store.renew(&batch).await.unwrap();
        let renewed = batch.iter().next().unwrap().outcome();
        assert!(matches!(renewed, Some(RenewalOutcome::HeldFor(_))), "{renewed:?}");
    };
    // From here on the background is connected.
    renew().await;
    proxy.scripts();
    proxy.hold_replies(true);
    let all = claims(3_000);
    let requests = tokio::spawn({
        let (store, all) = (store.clone(), all.clone());
        async move { join_all(all.iter().map(|claim| store.request(claim))).await }
    });
    let most = max_in_flight(&proxy);
    assert!(most <= 8, "{most} calls are under way");
    proxy.hold_replies(false);
    let granted = |answer: &Result<Attempt>| matches!(answer, Ok(Attempt::Granted(_)));
    assert!(requests.await.unwrap().iter().all(granted));
    // The same for calls that are not batched.
    proxy.scripts();
    proxy.hold_replies(true);
    let looks = tokio::spawn({
        let (store, all) = (store.clone(), all.clone());
        async move { join_all(all.iter().map(|claim| store.inspect(claim.name(), Space::Locks))).await }
    });
    let most = max_in_flight(&proxy);
    assert!(most <= 256, "{most} calls are under way");
    proxy.hold_replies(false);
    assert!(looks.await.unwrap().iter().all(|found| found.as_ref().is_ok_and(|holders| holders.len() == 1)));
    renew().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawals_that_leave_a_mark_travel_together() {
    const COUNT: usize = 300;
    let server = server();
    let store = open(&format!("{}?connect_timeout=300ms&response_timeout=300ms", server.url())).await;
    let locks = locks(&store);
    server.pause();
    let asked = join_all((0..COUNT).map(|number| locks.lock(format!("job {number}")).try_acquire())).await;
    assert!(asked.iter().all(|asked| asked.as_ref().is_err_and(|error| error.may_have_taken_effect())));
    server.resume();
    let marks = || server.cli(&["--scan", "--pattern", "*withdrawn*"]).lines().count();
    until("all their marks", || (marks() == COUNT).then_some(()));
    assert!(calls(&server, "evalsha") < COUNT as u64 / 2, "{} calls", calls(&server, "evalsha"));
    tokio::time::timeout(WAIT_TIMEOUT, async {
        while !store.list(Space::Locks, None, 1).await.is_ok_and(|held| held.is_empty()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("nothing is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_finds_the_server_dead_is_told_together() {
    let mut server = server();
    let store = open(&format!("{}?connect_timeout=500ms&response_timeout=500ms", server.url())).await;
    grant(&store, &Claim::new(name("held"), LONG)).await;
    server.kill();
    // The port accepts connections and never answers.
    let silent = std::net::TcpListener::bind(("127.0.0.1", server.port())).unwrap();
    let connects = Arc::new(AtomicUsize::new(0));
    let counted = connects.clone();
    std::thread::spawn(move || {
        let mut kept = Vec::new();
        for client in silent.incoming() {
            counted.fetch_add(1, Ordering::SeqCst);
            kept.push(client);
        }
    });
    let all = claims(5_000);
    let requests = join_all(all.iter().map(|claim| store.request(claim)));
    let looks = join_all(all.iter().map(|claim| store.inspect(claim.name(), Space::Locks)));
    let (requests, looks) = futures_util::future::join(requests, looks).await;
    assert!(requests.iter().all(Result::is_err) && looks.iter().all(Result::is_err));
    let connects = connects.load(Ordering::SeqCst);
    assert!(connects < 10, "nobody tries what failed since it came: {connects} connections");
}
