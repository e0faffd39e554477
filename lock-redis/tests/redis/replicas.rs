//! Replicas, sentinels and clusters.

use std::time::Duration;

use futures_util::future::join_all;
use lock_core::{
    Attempt, Claim, Clock, ErrorKind, Fault, Guarantees, LockStore, ReleaseOutcome, RenewalBatch, RenewalOutcome, Space,
};
use lock_testkit::{Proxy, RedisCluster, RedisSentinels, RedisServer, WAIT_TIMEOUT, until};

use crate::fixture::{LONG, SYNCED, codes, grant, is_held, locks, name, open, refusal, server, try_open, warnings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grant_that_too_few_replicas_acknowledge_is_given_back() {
    let master = server();
    let replica = RedisServer::replica_of(&master, &[]);
    let store = open(&format!("{}?wait=1&wait_timeout=500ms", master.url())).await;
    let guard = locks(&store).lock("job").acquire().await.unwrap();
    assert!(replica.cli(&["GET", "lock:job"]).contains(&guard.holder().to_string()), "it is at the replica");
    // A busy replica may take longer now and then.
    while let Err(error) = guard.renew().await {
        assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    }
    replica.pause();
    let error = refusal(&store, &Claim::new(name("other"), LONG)).await;
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    assert!(store.inspect(&name("other"), Space::Locks).await.unwrap().is_empty(), "it is given back");
    let error = guard.renew().await.err().unwrap();
    assert!(error.is_retryable() && guard.is_valid(), "unknown neither extends nor ends: {error}");
    replica.resume();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_replicas_gets_the_lock_when_they_acknowledge_again() {
    let master = server();
    let replica = RedisServer::replica_of(&master, &[]);
    let store = open(&format!("{}?wait=1&wait_timeout=100ms", master.url())).await;
    replica.pause();
    let waiter = tokio::spawn(locks(&store).lock("job").wait(LONG).acquire());
    let counter = || master.cli(&["--scan", "--pattern", "*token*"]);
    until("some tries", || master.cli(&["GET", &counter()]).parse().is_ok_and(|tries: u32| tries > 2).then_some(()));
    replica.resume();
    let guard = tokio::time::timeout(WAIT_TIMEOUT, waiter).await.expect("it is asked again").unwrap().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_replica_stands_still_each_of_many_has_its_own_answer_in_time() {
    let master = server();
    let replica = RedisServer::replica_of(&master, &[]);
    let locks = locks(&open(&format!("{}?wait=1&wait_timeout=200ms", master.url())).await);
    replica.pause();
    let asked = join_all((0..50).map(|number| locks.lock(format!("job {number}")).try_acquire())).await;
    replica.resume();
    for asked in asked {
        let error = asked.map(drop).expect_err("nobody acknowledges");
        assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
        assert!(!error.may_have_taken_effect(), "{error:?}");
    }
}

/// A replica of `master` behind a proxy that delays each piece in both directions.
fn distant_replica(master: &RedisServer, delay: Duration) -> (Proxy, RedisServer) {
    let link = Proxy::to(master.port());
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &link.port().to_string()]);
    replica.wait_until_synced();
    link.delay(delay);
    (link, replica)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_slow_replica_a_crowd_keeps_no_held_lock_from_being_renewed() {
    const TTL: Duration = Duration::from_secs(4);
    let master = server();
    let (_link, _replica) = distant_replica(&master, Duration::from_millis(200));
    let locks = locks(&open(&format!("{}?wait=1&wait_timeout=4s", master.url())).await);
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let crowd: Vec<_> = (0..50)
        .map(|number| {
            let lock = locks.lock(format!("job {number}"));
            tokio::spawn(async move {
                loop {
                    let _ = lock.try_acquire().await;
                }
            })
        })
        .collect();
    // Without a renewal it would have ended within this time.
    assert!(tokio::time::timeout(TTL * 3 / 2, held.lost()).await.is_err(), "it is renewed");
    crowd.iter().for_each(|one| one.abort());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_without_memory_renews_what_replicas_acknowledge() {
    let master = server();
    let _replica = RedisServer::replica_of(&master, &[]);
    let store = open(&format!("{}?wait=1&wait_timeout=20s", master.url())).await;
    let guard = locks(&store).lock("job").fixed().acquire().await.unwrap();
    // The marker of the grant has expired, so that it cannot be overwritten.
    until("its end", || (master.cli(&["EXISTS", "lock:\u{1f}acknowledged"]) == "0").then_some(()));
    assert_eq!(master.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    guard.renew().await.unwrap();
    let error = refusal(&store, &Claim::new(name("other"), LONG)).await;
    assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_replica_is_away_is_not_for_correctness() {
    let mut master = server();
    drop(RedisServer::replica_of(&master, &[]));
    until("its leaving", || master.cli(&["INFO", "replication"]).contains("connected_slaves:0").then_some(()));
    let store = open(&master.url()).await;
    assert!(!store.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    let warnings = warnings(&store).await;
    assert_eq!(codes(&warnings), ["replicas"]);
    assert!(warnings[0].text.contains("away now"), "{warnings:?}");
    // A restarted server that no replica has reached since has none.
    master.restart();
    assert_eq!(open(&master.url()).await.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_replica_is_not_for_correctness() {
    let master = server();
    let _replica = RedisServer::replica_of(&master, &[]);
    let store = open(&master.url()).await;
    assert!(!store.guarantees().tokens_survive.unwrap().contains(Fault::FailOver.into()));
    assert!(!store.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    let warnings = warnings(&store).await;
    assert_eq!(codes(&warnings), ["replicas"]);
    assert!(warnings[0].text.contains("1 are connected"), "{warnings:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demoted_master_is_left_and_a_replica_is_refused() {
    let (one, two) = (server(), server());
    let store = open(&one.url()).await;
    one.cli(&["REPLICAOF", "127.0.0.1", &two.port().to_string()]);
    let error = refusal(&store, &Claim::new(name("job"), LONG)).await;
    assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    one.wait_until_synced();
    assert_eq!(try_open(&one.url()).await.err().unwrap().kind(), ErrorKind::InvalidConfig);
    one.cli(&["REPLICAOF", "NO", "ONE"]);
    grant(&store, &Claim::new(name("job"), LONG)).await;
}

/// Scenario: a fail-over to a replica that was cut off. The lock is held twice, with tokens that no
/// fence can tell apart; therefore a server with a replica promises neither. The stale holder is
/// notified.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fail_over_to_a_replica_that_lags_makes_two_and_the_stale_holder_is_told() {
    let mut master = server();
    let link = Proxy::to(master.port());
    let replica = RedisServer::start(&["--replicaof", "127.0.0.1", &link.port().to_string(), "--appendonly", "yes"]);
    replica.wait_until_synced();
    let store = open(&format!("{}?connect_timeout=300ms", master.url())).await;
    let first = Claim::new(name("job"), LONG);
    grant(&store, &first).await;
    until("its arrival at the replica", || (!replica.cli(&["GET", "lock:job"]).is_empty()).then_some(()));
    store.release(&first, Duration::ZERO).await.unwrap();
    until("its end at the replica", || replica.cli(&["GET", "lock:job"]).is_empty().then_some(()));
    link.cut();
    let guard = locks(&store).lock("job").ttl(Duration::from_secs(10)).acquire().await.unwrap();
    let stale = guard.token_if_any().unwrap().clone();
    master.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    let other = open(&replica.url()).await;
    let token = grant(&other, &Claim::new(name("job"), LONG)).await;
    assert!(guard.is_valid(), "two hold it");
    assert!(token <= stale, "the order of tokens does not survive: {stale}, then {token}");
    tokio::time::timeout(WAIT_TIMEOUT, guard.lost()).await.expect("the stale holder is told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_fail_over_is_followed() {
    let mut all = RedisSentinels::start(&[]);
    let store = open(&all.url()).await;
    assert!(!store.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    let held = Claim::new(name("held"), LONG);
    grant(&store, &held).await;
    let (before, key) = (all.master_port().unwrap(), "lock:held");
    let replica = all.servers().iter().find(|server| server.port() != before).unwrap();
    until("its arrival at the replica", || (!replica.cli(&["GET", key]).is_empty()).then_some(()));
    all.fail_over();
    grant(&store, &Claim::new(name("job"), LONG)).await;
    assert!(is_held(&store, "held").await, "it had arrived");
    // The former master comes back, and is not taken for the master.
    all.server(before).restart();
    assert!(is_held(&*open(&all.url()).await, "job").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_followed_when_slots_move_and_masters_change() {
    let mut cluster = RedisCluster::start(&SYNCED);
    let store = open(&cluster.url()).await;
    assert!(!store.guarantees().shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty());
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&store, &claim).await;
    let owner = cluster.move_slot(cluster.slot_of("lock:job"));
    assert_eq!(grant(&store, &claim).await, token, "the same lease, at another member");
    store.release(&claim, Duration::ZERO).await.unwrap();
    let next = Claim::new(name("job"), LONG);
    let after = grant(&store, &next).await;
    assert!(after > token, "{after} after {token}");
    cluster.servers().iter_mut().find(|server| server.port() == owner).unwrap().kill();
    // Another lock of the same slot, once the cluster has promoted the replica.
    let beside = Claim::new(name("{lock:job}"), LONG);
    tokio::time::timeout(WAIT_TIMEOUT, grant(&store, &beside)).await.expect("the cluster goes on");
}

/// Number of `TRYAGAIN` replies of a node.
fn refusals(cluster: &mut RedisCluster, port: u16) -> u32 {
    let server = cluster.servers().iter().find(|server| server.port() == port).unwrap();
    let stats = server.cli(&["INFO", "errorstats"]);
    let line = stats.lines().find_map(|line| line.strip_prefix("errorstat_TRYAGAIN:count="));
    line.map_or(0, |count| count.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_on_its_way_is_late_and_no_error() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    let store = open(&format!("{}?response_timeout=60s", cluster.url())).await;
    // Three locks of one slot.
    let [moved, kept, asked] =
        ["{lock:job}", "{lock:job}2", "job"].map(|text| Claim::new(name(text), Duration::from_secs(300)));
    for held in [&moved, &kept] {
        grant(&store, held).await;
    }
    let moving = cluster.start_slot_migration(cluster.slot_of("lock:job"));
    moving.move_key("lock:{lock:job}");
    let request = {
        let (store, asked) = (store.clone(), asked.clone());
        tokio::spawn(async move { store.request(&asked).await })
    };
    until("some refusals", || (refusals(&mut cluster, moving.from) > 3).then_some(()));
    // A call of one key is served where that key is.
    let batch = RenewalBatch::new(&Clock::system(), [moved.clone(), kept.clone()]);
    store.renew(&batch).await.unwrap();
    let renewed: Vec<_> = batch.iter().map(|entry| entry.outcome()).collect();
    assert!(renewed.iter().all(|answer| matches!(answer, Some(RenewalOutcome::HeldFor(_)))), "{renewed:?}");
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 2);
    for held in [&moved, &kept] {
        assert_eq!(store.release(held, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    }
    assert!(!request.is_finished(), "what needs the counter waits");
    moving.finish();
    let attempt = tokio::time::timeout(WAIT_TIMEOUT, request).await.expect("it is asked again").unwrap();
    assert!(matches!(attempt, Ok(Attempt::Granted(_))), "{attempt:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_stays_on_its_way_is_an_error_when_the_time_is_over() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    let store = open(&format!("{}?response_timeout=1s", cluster.url())).await;
    let held = Claim::new(name("{lock:job}"), LONG);
    grant(&store, &held).await;
    let moving = cluster.start_slot_migration(cluster.slot_of("lock:job"));
    moving.move_key("lock:{lock:job}");
    let error = refusal(&store, &Claim::new(name("job"), LONG)).await;
    assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    assert!(refusals(&mut cluster, moving.from) > 1, "it was asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_taken_out_of_the_cluster_is_not_believed() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    let slow = Proxy::to(cluster.servers()[0].port());
    let alone =
        RedisServer::start(&["--cluster-enabled", "yes", "--cluster-port", &lock_testkit::free_port().to_string()]);
    // The removed node answers first.
    slow.delay(Duration::from_millis(300));
    let url = format!("redis-cluster://127.0.0.1:{},127.0.0.1:{}", alone.port(), slow.port());
    let store = open(&url).await;
    for number in 0..20 {
        grant(&store, &Claim::new(name(&format!("job {number}")), LONG)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_is_used_as_what_it_is_and_the_refusal_says_how() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    let (single, sentinels) = (server(), RedisSentinels::start(&[]));
    let port_of_sentinel = sentinels.url().split([':', ',', '/']).nth(4).unwrap().to_owned();
    for (url, says) in [
        (cluster.servers()[0].url(), "redis-cluster://"),
        (single.url().replace("redis:", "redis-cluster:"), "redis://"),
        (format!("redis://127.0.0.1:{port_of_sentinel}"), "redis-sentinel://"),
    ] {
        let error = try_open(&url).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error}");
        assert!(error.to_string().contains(says), "{url}: {error}");
    }
    // The same for a server whose user may not ask for its mode.
    let member = &cluster.servers()[0];
    assert_eq!(member.cli(&["ACL", "SETUSER", "default", "-info"]), "OK");
    let error = try_open(&member.url()).await.err().unwrap();
    assert!(error.to_string().contains("redis-cluster://"), "{error}");
}
