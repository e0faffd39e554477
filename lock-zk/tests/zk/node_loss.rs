//! Nodes that were deleted, and nodes without a claim.

use lock_core::{BreakMode, LossReason};
use lock_testkit::ZooKeeper;
use zookeeper_client::{Acls, CreateMode};

use crate::fixture::{
    client, locks, locks_on, nodes, secs, session_of, shared_server, start_waiting, store, unique_name, until,
    within_bound,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_somebody_deleted_is_noticed_within_one_renewal_round() {
    let (zookeeper, name) = (shared_server(), unique_name("deleted"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(zookeeper).await);
    let other = locks.lock(unique_name("other")).acquire().await.unwrap();
    let guard = locks.lock(&name).acquire().await.unwrap();
    client.delete(&nodes(&client, name.as_str()).await[0], None).await.unwrap();
    other.renew().await.unwrap();
    assert_eq!(guard.check(), Err(LossReason::NotHeld));
    assert!(other.is_valid(), "{:?}", other.check());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_on_the_session_that_nobody_claims_is_deleted() {
    let (zookeeper, name) = (ZooKeeper::start(1), unique_name("orphan"));
    let claim = lock_core::Claim::new(name.clone(), secs(30));
    let (ours, client) = (store(zookeeper.endpoints()).await, client(&zookeeper).await);
    let locks = locks_on(&ours, secs(30));
    let guard = locks.lock(unique_name("other")).acquire().await.unwrap();
    assert!(matches!(lock_core::LockStore::request(&*ours, &claim).await, Ok(lock_core::Attempt::Granted(_))));
    guard.renew().await.unwrap();
    assert_eq!(nodes(&client, name.as_str()).await.len(), 1, "it has a claim");
    drop(claim);
    guard.renew().await.unwrap();
    assert!(nodes(&client, name.as_str()).await.is_empty());
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_own_node_was_deleted_goes_on() {
    let (zookeeper, name) = (ZooKeeper::start(1), unique_name("own"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(4)).await, client(&zookeeper).await);
    let guard = locks.lock(&name).acquire().await.unwrap();
    let own = client.list_children("/app/%sessions").await.unwrap().remove(0);
    client.delete(&format!("/app/%sessions/{own}"), None).await.unwrap();
    tokio::time::sleep(secs(5)).await;
    assert!(guard.is_valid(), "{:?}", guard.check());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_locks_cost_one_heartbeat() {
    let (zookeeper, prefix) = (ZooKeeper::start(1), unique_name("many"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(60)).await, client(&zookeeper).await);
    let mut guards = Vec::new();
    for i in 0..100 {
        guards.push(locks.lock(format!("{prefix}-{i}")).acquire().await.unwrap());
    }
    let mut sessions = std::collections::HashSet::new();
    for guard in &guards {
        sessions.insert(session_of(&client, &nodes(&client, guard.name().as_str()).await[0]).await);
    }
    assert_eq!(sessions.len(), 1, "one session carries all");
    // Rounds that write the times of the grants, into some nodes each.
    for _ in 0..100 / 16 + 2 {
        guards[0].renew().await.unwrap();
    }
    assert!(locks.inspect(guards[7].name()).await.unwrap().pop().unwrap().held_for.is_some());
    let before = client.set_data("/app/%realm", b"zk:0", None).await.unwrap().mzxid;
    guards[0].renew().await.unwrap();
    let writes = client.set_data("/app/%realm", b"zk:0", None).await.unwrap().mzxid - before - 1;
    assert!((1..=2).contains(&writes), "one round made {writes} writes");
    assert!(guards.iter().all(|guard| guard.remaining() > secs(50)), "one round renews all");
    drop(guards);
    locks.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_lock_is_passed_on_when_the_old_lease_would_have_ended_and_not_before() {
    let (zookeeper, name) = (shared_server(), unique_name("revoked"));
    let (ours, theirs) = (locks(zookeeper.endpoints(), secs(4)).await, locks(zookeeper.endpoints(), secs(4)).await);
    let client = client(zookeeper).await;
    let guard = ours.lock(&name).acquire().await.unwrap();
    let waiter = start_waiting(&theirs, &name).await;
    let seen = theirs.inspect(&name).await.unwrap().pop().unwrap();
    let broken = theirs.break_lock(&name, &seen, BreakMode::Revoke).await.unwrap().unwrap();
    assert!(broken.free_in >= guard.ttl(), "{broken:?}");
    // The blocking node has the place of the holder's.
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    assert!(theirs.inspect(&name).await.unwrap().pop().unwrap().revoked);
    let believed = guard.remaining();
    let began = std::time::Instant::now();
    let next = within_bound("the next grant", waiter).await.unwrap().unwrap();
    assert!(began.elapsed() >= believed, "granted while the evicted holder may still believe");
    assert!(!guard.is_valid());
    let used = broken.token.unwrap();
    assert!(used > *guard.token_if_any().unwrap() && *next.token_if_any().unwrap() >= used);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_are_empty_do_not_pile_up() {
    let zookeeper = ZooKeeper::start_configured(&[], &["znode.container.checkIntervalMs=300"]);
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(&zookeeper).await);
    for i in 0..20 {
        locks.lock(format!("job-{i}")).acquire().await.unwrap().release().await.unwrap();
    }
    let held = locks.lock("held").acquire().await.unwrap();
    until("the end of empty folders", || async {
        let mut left = client.list_children("/app").await.unwrap();
        left.retain(|node| !node.starts_with('%'));
        left == ["held"]
    })
    .await;
    // A lock node that is deleted meanwhile is made again.
    let over = std::time::Instant::now() + secs(1);
    while std::time::Instant::now() < over {
        locks.lock("job").acquire().await.unwrap().release().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    held.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_an_older_session_of_the_same_holder_is_no_lease() {
    let (zookeeper, name) = (shared_server(), unique_name("dying"));
    let (ours, client) = (store(zookeeper.endpoints()).await, client(zookeeper).await);
    let claim = lock_core::Claim::queueing(name.clone(), secs(30));
    // As if it had been made on an older session: this client's.
    let digits = claim.holder().to_string();
    let guid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    client.mkdir(&format!("/app/{name}"), &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
    let old = format!("/app/{name}/_c_{guid}-lock-");
    client.create(&old, b"", &CreateMode::EphemeralSequential.with_acls(Acls::anyone_all())).await.unwrap();
    let other = lock_core::Claim::queueing(name.clone(), secs(30));
    assert!(matches!(lock_core::LockStore::request(&*ours, &other).await, Ok(lock_core::Attempt::Held(_))));
    // Its first request makes an entry of its own, at the end.
    assert!(matches!(lock_core::LockStore::request(&*ours, &claim).await, Ok(lock_core::Attempt::Held(_))));
    let entries = nodes(&client, name.as_str()).await;
    assert_eq!(entries.len(), 3);
    assert_ne!(session_of(&client, &entries[2]).await, session_of(&client, &entries[0]).await);
}
