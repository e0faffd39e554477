//! A standby that takes over, and lags.

use std::time::Duration;

use lock_core::{Claim, ErrorKind, Fault, FencingToken, Guarantees, LockStore, Locks};
use lock_testkit::PostgresServer;

use crate::fixture::{LONG, codes, grant, init, locks, name, open, try_open, until, warnings};

/// True if a resource that has seen the later token refuses the earlier one.
async fn refuses(later: &FencingToken, earlier: &FencingToken) -> bool {
    let resource = lock_core::Fence::in_memory();
    drop(resource.enter(&name("job"), later).await.unwrap());
    resource.enter(&name("job"), earlier).await.is_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_to_a_standby_that_lags_makes_two_holders_whom_no_fence_tells_apart() {
    let mut primary = PostgresServer::start(&[]);
    init(&primary.url()).await.unwrap();
    let alone = open(&primary.url()).await;
    assert!(Locks::builder_of(alone).build().for_correctness().is_ok(), "a server alone has no fail-over");

    let standby = PostgresServer::standby_of(&primary, &[]);
    let both = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres", primary.port(), standby.port());
    // Declared in advance, whether it is detected at the server or in the URL.
    for url in [&primary.url(), &both] {
        let store = open(url).await;
        let tokens = store.guarantees().tokens_survive.unwrap();
        assert!(!tokens.contains(Fault::FailOver.into()), "{tokens}");
        assert_eq!(codes(&warnings(&*store).await), ["standby"]);
        let refused = Locks::builder_of(store).build().for_correctness().err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::TooWeak);
        assert!(refused.to_string().contains("fail-over"), "{refused}");
    }
    let near = open(&both).await;
    let claim = Claim::new(name("job"), LONG);
    let first = grant(&*near, &claim).await;
    near.release(&claim, Duration::ZERO).await.unwrap();
    until("the standby's copy", || standby.psql("select count(*) from leasehold where holder is null") == "1").await;
    // Replication is cut: the standby never receives what is granted now.
    standby.psql("alter system set primary_conninfo = ''");
    standby.psql("select pg_reload_conf()");
    until("the end of the link", || primary.psql("select count(*) from pg_stat_replication") == "0").await;
    let guard = locks(&near).lock("job").acquire().await.unwrap();
    let old = guard.token_if_any().unwrap().clone();
    assert!(old > first);
    primary.kill();
    standby.promote();

    let far = open(&both).await;
    let new = grant(&*far, &Claim::new(name("job"), LONG)).await;
    assert!(guard.is_valid(), "and the first still believes");
    assert_eq!(new, old, "the token is given twice");
    assert!(!refuses(&new, &old).await, "and no fence tells them apart");
    // The old holder's process finds the new primary by itself, and learns that its lease is lost.
    let started = std::time::Instant::now();
    while guard.is_valid() {
        assert!(guard.renew().await.is_err(), "a lease that another has cannot be renewed");
        assert!(started.elapsed() < lock_testkit::WAIT_TIMEOUT, "it does not learn");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_operator_declares_is_believed_and_a_standby_alone_is_refused() {
    let primary = PostgresServer::start(&[]);
    init(&primary.url()).await.unwrap();
    let standby = PostgresServer::standby_of(&primary, &[]);
    let declared = open(&format!("{}?failover=synchronous", primary.url())).await;
    assert!(declared.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    let error = try_open(&standby.url()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("standby"), "{error}");
    // A primary that waits for its standby: this is detected.
    primary.psql("alter system set synchronous_standby_names = '*'");
    primary.psql("select pg_reload_conf()");
    until("a standby that is waited for", || {
        primary.psql("select count(*) from pg_stat_replication where sync_state = 'sync'") == "1"
    })
    .await;
    let waits = open(&primary.url()).await;
    assert!(waits.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty(), "{:?}", waits.guarantees());
    grant(&*waits, &Claim::new(name("job"), LONG)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_away_just_now_is_not_forgotten() {
    let primary = PostgresServer::start(&[]);
    init(&primary.url()).await.unwrap();
    let guarantees = async || open(&primary.url()).await.guarantees().tokens_survive.unwrap();
    assert!(guarantees().await.contains(Fault::FailOver.into()), "it never had one");
    let mut standby = PostgresServer::standby_of(&primary, &[]);
    assert!(!guarantees().await.contains(Fault::FailOver.into()), "it is there");
    standby.kill();
    until("its absence", || primary.psql("select count(*) from pg_stat_replication") == "0").await;
    assert!(!guarantees().await.contains(Fault::FailOver.into()), "and may come back");
    let found = warnings(&*open(&primary.url()).await).await;
    assert!(codes(&found) == ["standby"] && found[0].text.contains("seen before"), "{found:?}");
    // The operator knows better.
    let declared = open(&format!("{}?failover=none", primary.url())).await;
    assert!(declared.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_standby_leaves_behind_tells_of_it() {
    for (change, says) in [
        ("create role feeds login replication", "a role for replication"),
        ("alter system set wal_keep_size = '64MB'; select pg_reload_conf()", "wal_keep_size"),
        ("alter system set primary_conninfo = 'host=elsewhere'; select pg_reload_conf()", "primary_conninfo"),
    ] {
        let server = PostgresServer::start(&[]);
        init(&server.url()).await.unwrap();
        for statement in change.split("; ") {
            server.psql(statement);
        }
        let started = std::time::Instant::now();
        loop {
            let store = open(&server.url()).await;
            if store.diagnose().await.unwrap().iter().any(|finding| finding.text.contains(says)) {
                assert!(!store.guarantees().tokens_survive.unwrap().contains(Fault::FailOver.into()), "{change}");
                break;
            }
            // The server reloads its settings soon.
            assert!(started.elapsed() < lock_testkit::WAIT_TIMEOUT, "{change} tells nothing");
        }
    }
}
