//! Tokens after a loss of data.

use std::time::Duration;

use lock_core::{Claim, ErrorKind, Fence, Guarantees, LockStore, RenewalBatch, RenewalOutcome};
use lock_testkit::RedisServer;

use crate::fixture::{LONG, SYNCED, codes, grant, locks, name, open, request, server, warnings};

fn counter(server: &RedisServer) -> String {
    server.cli(&["--scan", "--pattern", "*token*"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_is_too_low_is_raised_above_what_was_seen() {
    let server = server();
    let store = open(&server.url()).await;
    let mut last = None;
    for _ in 0..5 {
        let claim = Claim::new(name("job"), LONG);
        last = Some(grant(&store, &claim).await);
        store.release(&claim, Duration::ZERO).await.unwrap();
    }
    let last = last.unwrap();
    let counter = counter(&server);
    for forget in [&["SET", &counter, "2"][..], &["SET", &counter, "-100"], &["DEL", &counter]] {
        server.cli(forget);
        let claim = Claim::new(name("job"), LONG);
        let next = grant(&store, &claim).await;
        assert!(next > last, "{next} after {last}, which was forgotten by {forget:?}");
        store.release(&claim, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_was_lost_is_raised_above_a_token_that_was_only_seen() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    grant(&a, &Claim::new(name("first"), LONG)).await;
    server.cli(&["SET", &counter(&server), "1000000000"]);
    let held = grant(&a, &Claim::new(name("job"), LONG)).await;
    for forget in [&["SET", &counter(&server), "2"][..], &["DEL", &counter(&server)]] {
        server.cli(forget);
        drop(b.request(&Claim::new(name("job"), LONG)).await.unwrap());
        let claim = Claim::new(name("other"), LONG);
        let next = grant(&b, &claim).await;
        assert!(next > held, "{next} after {held}, which was forgotten by {forget:?}");
        b.release(&claim, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_tokens_are_exact() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("other"), LONG)).await;
    for large in [9_007_199_254_740_990_u64, 9_007_199_254_740_993, 1_700_000_000_000_000_001] {
        server.cli(&["SET", &counter(&server), &large.to_string()]);
        let (first, second) = (Claim::new(name("job"), LONG), Claim::new(name("job"), LONG));
        assert_eq!(grant(&store, &first).await.number(), large + 1);
        assert_eq!(grant(&store, &first).await.number(), large + 1);
        store.release(&first, Duration::ZERO).await.unwrap();
        assert_eq!(grant(&store, &second).await.number(), large + 2);
        store.release(&second, Duration::ZERO).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_tokens_of_another_process_are_not_given_again() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    grant(&a, &Claim::new(name("other"), LONG)).await;
    server.cli(&["SET", &counter(&server), "1700000000000000001"]);
    let mut last = grant(&a, &Claim::new(name("first"), LONG)).await;
    for store in [&b, &b, &a, &b] {
        let claim = Claim::new(name("job"), LONG);
        let next = grant(store, &claim).await;
        assert!(next > last, "{next} after {last}");
        store.release(&claim, Duration::ZERO).await.unwrap();
        last = next;
    }
}

/// Scenario: `kill -9` and a restart without persistence. The lock is held twice, and the fence
/// admits only the first until an operator adopts the new realm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_forgot_everything_begins_a_new_realm_and_the_stale_holder_is_told() {
    let mut server = RedisServer::start(&["--appendonly", "no"]);
    let store = open(&server.url()).await;
    assert!(store.guarantees().records_survive.is_empty());
    let guard = locks(&store).lock("job").fixed().acquire().await.unwrap();
    let stale = guard.token_if_any().unwrap().clone();
    let fence = Fence::in_memory();
    drop(fence.enter(&name("job"), &stale).await.unwrap());
    server.restart();
    let other = open(&server.url()).await;
    let next = grant(&other, &Claim::new(name("job"), LONG)).await;
    assert!(guard.is_valid(), "two hold it");
    assert_eq!(next.partial_cmp(&stale), None, "tokens before and after do not compare");
    assert_eq!(fence.enter(&name("job"), &next).await.err().unwrap().kind(), ErrorKind::Fenced);
    let told = loop {
        match guard.renew().await {
            Err(error) if error.is_retryable() => {}
            told => break told,
        }
    };
    assert_eq!(told.unwrap_err().kind(), ErrorKind::Lost);
    assert!(!guard.is_valid());
    // This process learns the new realm with its next grant.
    let token = grant(&store, &Claim::new(name("another"), LONG)).await;
    assert_eq!(token.realm(), &other.realm());
    assert_eq!(store.realm(), other.realm());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_keeps_everything_is_for_correctness_and_no_other() {
    let mut server = RedisServer::start(&SYNCED);
    let store = open(&server.url()).await;
    assert!(store.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    assert_eq!(warnings(&store).await, []);
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&store, &claim).await;
    server.restart();
    assert_eq!(grant(&store, &claim).await, token, "the same holder, after a crash");
    let everysec = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    for weak in [open(&everysec.url()).await, open(&RedisServer::start(&[]).url()).await] {
        let refusal = locks(&weak).for_correctness().err().unwrap();
        assert_eq!(refusal.kind(), ErrorKind::TooWeak);
    }
    let evicting =
        RedisServer::start(&["--maxmemory-policy", "allkeys-lru", "--appendonly", "yes", "--appendfsync", "always"]);
    assert_eq!(codes(&warnings(&*open(&evicting.url()).await).await), ["maxmemory-policy"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_beside_the_locks_are_bounded_in_number() {
    let server = server();
    let store = open(&server.url()).await;
    for number in 0..200 {
        let claim = Claim::new(name(&format!("job {number}")), LONG);
        grant(&store, &claim).await;
        store.release(&claim, Duration::ZERO).await.unwrap();
    }
    assert_eq!(server.cli(&["DBSIZE"]), "2", "a realm and a counter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_realm_is_learnt_by_others_and_its_tokens_go_on() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    let held = Claim::new(name("held"), LONG);
    let before = grant(&a, &held).await;
    let realm = a.new_realm().await.unwrap();
    let after = grant(&b, &Claim::new(name("job"), LONG)).await;
    assert_eq!(after.realm(), &realm);
    assert!(after.number() > before.number());
    let batch = RenewalBatch::new(&lock_core::Clock::system(), [held.clone()]);
    b.renew(&batch).await.unwrap();
    assert!(matches!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(_))));
    drop(request(&b, &held).await);
}
