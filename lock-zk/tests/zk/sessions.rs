//! Sessions that end while somebody waits or holds.

use std::time::{Duration, Instant};

use lock_core::{Attempt, Claim, LockStore, LossReason, ReleaseOutcome};
use lock_testkit::ZooKeeper;

use crate::fixture::{
    client, locks, locks_on, nodes, secs, session_of, shared_server, start_waiting, store, unique_name, until,
    within_bound,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_is_lost_with_all_its_leases_at_once_and_a_new_one_is_opened() {
    let (zookeeper, name) = (shared_server(), unique_name("ended"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(60)).await, client(zookeeper).await);
    let guards = [locks.lock(&name).acquire().await.unwrap(), locks.lock(unique_name("too")).acquire().await.unwrap()];
    let node = nodes(&client, name.as_str()).await.remove(0);
    let ended = session_of(&client, &node).await;
    zookeeper.end_session(ended);
    for guard in &guards {
        assert_eq!(within_bound("the loss", guard.lost()).await, LossReason::SessionEnded);
    }
    let next = locks.lock(&name).acquire().await.unwrap();
    let entries = nodes(&client, name.as_str()).await;
    assert_eq!(entries.len(), 1, "the old session's node is gone");
    assert_ne!(session_of(&client, &entries[0]).await, ended);
    assert!(next.is_valid());
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_session_ends_takes_a_new_place_and_is_served() {
    let (zookeeper, name) = (shared_server(), unique_name("waiter"));
    let (ours, theirs) = (locks(zookeeper.endpoints(), secs(60)).await, locks(zookeeper.endpoints(), secs(60)).await);
    let client = client(zookeeper).await;
    let holder = theirs.lock(&name).acquire().await.unwrap();
    let waiter = start_waiting(&ours, &name).await;
    let place = nodes(&client, name.as_str()).await.remove(1);
    zookeeper.end_session(session_of(&client, &place).await);
    until("a new place", || async {
        let entries = nodes(&client, name.as_str()).await;
        entries.len() == 2 && entries[1] != place
    })
    .await;
    assert!(!waiter.is_finished());
    holder.release().await.unwrap();
    let guard = within_bound("its turn", waiter).await.unwrap().unwrap();
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_ends_no_lease_before_its_deadline_and_all_at_it() {
    let zookeeper = ZooKeeper::start(1);
    let ours = locks(zookeeper.proxy_endpoints(), secs(4)).await;
    let theirs = locks(zookeeper.endpoints(), secs(4)).await;
    let name = unique_name("suspended");
    let guard = ours.lock(&name).acquire().await.unwrap();
    let believed = guard.remaining();
    let began = Instant::now();
    zookeeper.server(0).proxy().cut();
    assert!(guard.is_valid(), "a suspended connection says nothing of the lease");
    assert_eq!(within_bound("the loss", guard.lost()).await, LossReason::Expired);
    assert!(began.elapsed() >= believed / 2, "it was lost as soon as the connection was");
    let next = within_bound("the next grant", theirs.lock(&name).acquire()).await.unwrap();
    // Nothing of the old session comes back.
    zookeeper.server(0).proxy().forward();
    drop(guard);
    let client = client(&zookeeper).await;
    let again = within_bound("another lock", ours.lock(unique_name("other")).acquire()).await.unwrap();
    assert_eq!(nodes(&client, name.as_str()).await.len(), 1);
    assert!(next.is_valid());
    next.release().await.unwrap();
    again.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_comes_back_in_time_costs_nothing() {
    let zookeeper = ZooKeeper::start(1);
    let ours = locks(zookeeper.proxy_endpoints(), secs(20)).await;
    let guard = ours.lock("job").acquire().await.unwrap();
    for _ in 0..3 {
        zookeeper.server(0).proxy().cut();
        zookeeper.server(0).proxy().forward();
        until("a renewal", || async { guard.renew().await.is_ok() }).await;
    }
    assert!(guard.is_valid(), "{:?}", guard.check());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_lease_has_a_session_of_its_own_and_ends_without_renewal() {
    let (zookeeper, name) = (shared_server(), unique_name("fixed"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(4)).await, client(zookeeper).await);
    let renewed = locks.lock(unique_name("renewed")).acquire().await.unwrap();
    let fixed = locks.lock(&name).fixed().acquire().await.unwrap();
    let (one, other) = (nodes(&client, renewed.name().as_str()).await, nodes(&client, name.as_str()).await);
    assert_ne!(session_of(&client, &one[0]).await, session_of(&client, &other[0]).await);
    fixed.renew().await.unwrap();
    assert_eq!(within_bound("its end", fixed.lost()).await, LossReason::Expired);
    until("its node's end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    assert!(renewed.is_valid());
    renewed.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_lease_that_is_renewed_by_hand_lasts_on() {
    let (zookeeper, name) = (shared_server(), unique_name("by-hand"));
    let locks = locks(zookeeper.endpoints(), secs(4)).await;
    let fixed = locks.lock(&name).fixed().acquire().await.unwrap();
    let over = Instant::now() + secs(6);
    while Instant::now() < over {
        fixed.renew().await.unwrap();
    }
    assert!(fixed.is_valid(), "{:?}", fixed.check());
    fixed.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_that_is_too_short_is_raised_and_one_that_is_too_long_is_lowered_and_the_guard_says_so() {
    let locks = locks(shared_server().endpoints(), secs(10)).await;
    let guard = locks.lock(unique_name("short")).ttl(ZooKeeper::TICK).acquire().await.unwrap();
    assert_eq!(guard.ttl(), ZooKeeper::TICK * 4);
    guard.release().await.unwrap();
    let guard = locks.lock(unique_name("long")).ttl(secs(1_000)).acquire().await.unwrap();
    assert_eq!(guard.ttl(), secs(120));
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_session_is_over_is_withdrawn_by_another_session() {
    let (zookeeper, name) = (shared_server(), unique_name("withdrawn"));
    let (ours, client) = (store(zookeeper.endpoints()).await, client(zookeeper).await);
    let claim = Claim::new(name.clone(), secs(60));
    let Attempt::Granted(lease) = ours.request(&claim).await.unwrap() else { panic!("not granted") };
    let entries = nodes(&client, name.as_str()).await;
    zookeeper.end_session(session_of(&client, &entries[0]).await);
    let session = lease.session.unwrap();
    within_bound("the end of the session", session.lost()).await;
    // If the server has not deleted the nodes of the session yet, this does it.
    ours.release(&claim, Duration::ZERO).await.unwrap();
    assert!(nodes(&client, name.as_str()).await.is_empty());
    assert_eq!(ours.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::NotHeld);
    let guard = locks_on(&ours, secs(30)).lock(&name).try_acquire().await.unwrap();
    guard.expect("it is free").release().await.unwrap();
}
