//! Replies that are lost, requests that are given up, and links that are slow.

use std::time::Duration;

use lock_core::{Attempt, Claim, LockName, LockStore};
use lock_testkit::ZooKeeper;

use crate::fixture::{client, locks, locks_on, nodes, secs, store, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_reply_was_lost_is_found_again_by_its_guid() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, client) = (store(zookeeper.proxy_endpoints()).await, client(&zookeeper).await);
    let name = LockName::new("job").unwrap();
    let (first, claim) = (Claim::queueing(LockName::new("first").unwrap(), secs(60)), Claim::queueing(name, secs(60)));
    // The session is open, and the lock node exists.
    assert!(matches!(ours.request(&first).await.unwrap(), Attempt::Granted(_)));
    locks_on(&ours, secs(60)).lock("job").acquire().await.unwrap().release().await.unwrap();
    zookeeper.server(0).proxy().lose_replies();
    let asking = tokio::spawn({
        let (ours, claim) = (ours.clone(), claim.clone());
        async move { ours.request(&claim).await }
    });
    until("its node", || async { nodes(&client, "job").await.len() == 1 }).await;
    let made = nodes(&client, "job").await;
    zookeeper.server(0).proxy().forward();
    let lost = within_bound("the failure", asking).await.unwrap().unwrap_err();
    assert!(lost.may_have_taken_effect(), "{lost:?}");
    let Attempt::Granted(lease) = within_bound("the answer", ours.request(&claim)).await.unwrap() else {
        panic!("not granted")
    };
    assert_eq!(nodes(&client, "job").await, made, "it has one node, the first");
    let czxid = client.check_stat(&made[0]).await.unwrap().unwrap().czxid;
    assert_eq!(lease.token.unwrap().number(), czxid.unsigned_abs());
    ours.release(&claim, Duration::ZERO).await.unwrap();
    assert!(nodes(&client, "job").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_reply_was_lost_is_deleted_when_it_is_given_up() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, client) = (locks(zookeeper.proxy_endpoints(), secs(60)).await, client(&zookeeper).await);
    let other = ours.lock("other").acquire().await.unwrap();
    ours.lock("job").acquire().await.unwrap().release().await.unwrap();
    zookeeper.server(0).proxy().lose_replies();
    let acquire = tokio::spawn(ours.lock("job").acquire());
    until("its node", || async { nodes(&client, "job").await.len() == 1 }).await;
    acquire.abort();
    zookeeper.server(0).proxy().forward();
    until("its end", || async { nodes(&client, "job").await.is_empty() }).await;
    assert!(other.is_valid());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_entry_whose_reply_was_lost_with_that_of_its_lock_node_is_deleted() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, client) = (locks(zookeeper.proxy_endpoints(), secs(60)).await, client(&zookeeper).await);
    let other = ours.lock("other").acquire().await.unwrap();
    // The replies are under way when the node is seen.
    zookeeper.server(0).proxy().delay(Duration::from_millis(500));
    let lock = ours.lock("job");
    let trying = tokio::spawn(async move { lock.try_acquire().await });
    until("its node", || async { nodes(&client, "job").await.len() == 1 }).await;
    zookeeper.server(0).proxy().lose_replies();
    let lost = within_bound("the failure", trying).await.unwrap().unwrap_err();
    assert!(lost.may_have_taken_effect(), "{lost:?}");
    zookeeper.server(0).proxy().delay(Duration::ZERO);
    zookeeper.server(0).proxy().forward();
    until("its end", || async { nodes(&client, "job").await.is_empty() }).await;
    assert!(other.is_valid(), "{:?}", other.check());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_failed_is_made_again_after_the_reconnect() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, client) = (locks(zookeeper.proxy_endpoints(), secs(60)).await, client(&zookeeper).await);
    let other = ours.lock("other").acquire().await.unwrap();
    let guard = ours.lock("job").acquire().await.unwrap();
    zookeeper.server(0).proxy().hold();
    let release = tokio::spawn(guard.release());
    zookeeper.server(0).proxy().cut();
    let released = tokio::time::timeout(secs(1), release).await;
    drop(released);
    zookeeper.server(0).proxy().forward();
    until("its end", || async { nodes(&client, "job").await.is_empty() }).await;
    let next = within_bound("the next", ours.lock("job").acquire()).await.unwrap();
    next.release().await.unwrap();
    assert!(other.is_valid(), "{:?}", other.check());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_dropped_while_the_connection_is_down_leaves_nothing() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, client) = (locks(zookeeper.proxy_endpoints(), secs(60)).await, client(&zookeeper).await);
    let other = ours.lock("other").acquire().await.unwrap();
    zookeeper.server(0).proxy().cut();
    // Its request waits in the client, which will send it when it is connected again.
    let acquire = tokio::spawn(ours.lock("job").acquire());
    tokio::time::sleep(Duration::from_millis(200)).await;
    acquire.abort();
    zookeeper.server(0).proxy().forward();
    // Older requests of this session have been served when this one is answered.
    within_bound("a renewal", async { while other.renew().await.is_err() {} }).await;
    until("its end", || async { nodes(&client, "job").await.is_empty() }).await;
    assert!(other.is_valid());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_changes_nothing() {
    let zookeeper = ZooKeeper::start(1);
    zookeeper.server(0).proxy().delay(Duration::from_millis(20));
    let ours = locks_on(&store(zookeeper.proxy_endpoints()).await, secs(4));
    let guard = ours.lock("job").acquire().await.unwrap();
    let over = std::time::Instant::now() + secs(5);
    while std::time::Instant::now() < over {
        assert!(guard.is_valid(), "{:?}", guard.check());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    guard.release().await.unwrap();
}
