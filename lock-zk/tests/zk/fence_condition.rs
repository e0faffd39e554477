//! Fenced writes inside ZooKeeper.

use lock_core::{BreakMode, LockStore};
use lock_testkit::ZooKeeper;
use lock_zk::FenceCondition;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::fixture::{client, locks_on, nodes, secs, shared_server, store, unique_name};

/// Writes by another client under this condition; `true` if it was committed.
async fn write(client: &Client, condition: &FenceCondition) -> bool {
    let mut writer = client.new_multi_writer();
    writer.add_check_version(&condition.path, condition.version).unwrap();
    writer.add_set_data("/target", b"x", None).unwrap();
    writer.commit().await.is_ok()
}

async fn create_target(client: &Client) {
    // Another test may have made it.
    let _ = client.create("/target", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_under_a_proof_commits_only_while_its_holder_holds_the_lock() {
    let (zookeeper, name) = (shared_server(), unique_name("proof"));
    let (store, client) = (store(zookeeper.endpoints()).await, client(zookeeper).await);
    create_target(&client).await;
    let locks = locks_on(&store, secs(30));
    for how in [BreakMode::Now, BreakMode::Revoke] {
        let guard = locks.lock(&name).acquire().await.unwrap();
        let condition = store.fence_condition(&name, guard.holder()).await.unwrap().unwrap();
        assert_eq!(condition.czxid.unsigned_abs(), guard.token_if_any().unwrap().number());
        assert!(write(&client, &condition).await);
        assert!(store.fence_condition(&name, lock_core::Holder::fresh()).await.unwrap().is_none());
        let seen = locks.inspect(&name).await.unwrap().pop().unwrap();
        locks.break_lock(&name, &seen, how).await.unwrap().unwrap();
        assert!(!write(&client, &condition).await, "{how:?}");
        assert!(store.fence_condition(&name, guard.holder()).await.unwrap().is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_holder_cannot_write_also_where_the_next_has_a_node_of_the_same_version() {
    let (zookeeper, name) = (shared_server(), unique_name("proof"));
    let (store, client) = (store(zookeeper.endpoints()).await, client(zookeeper).await);
    create_target(&client).await;
    let locks = locks_on(&store, secs(30));
    let guard = locks.lock(&name).acquire().await.unwrap();
    let condition = store.fence_condition(&name, guard.holder()).await.unwrap().unwrap();
    guard.release().await.unwrap();
    assert!(!write(&client, &condition).await);
    // The numbers below the lock node begin anew, and so does the version.
    client.delete(&format!("/app/{name}"), None).await.unwrap();
    let next = locks.lock(&name).acquire().await.unwrap();
    let other = store.fence_condition(&name, next.holder()).await.unwrap().unwrap();
    assert_eq!(other.version, condition.version);
    assert!(!write(&client, &condition).await);
    assert!(write(&client, &other).await);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_has_no_proof() {
    let (zookeeper, name) = (shared_server(), unique_name("proof"));
    let (store, client) = (store(zookeeper.endpoints()).await, client(zookeeper).await);
    let locks = locks_on(&store, secs(30));
    let guard = locks.lock(&name).acquire().await.unwrap();
    let waiter = lock_core::Claim::queueing(name.clone(), secs(30));
    store.request(&waiter).await.unwrap();
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    assert!(store.fence_condition(&name, waiter.holder()).await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(store.fence_condition(&name, waiter.holder()).await.unwrap().is_some(), "it is the first now");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_whose_sessions_are_shorter_than_four_ticks_are_refused() {
    let zookeeper = ZooKeeper::start_configured(&["maxSessionTimeout=1500"], &[]);
    let store = store(zookeeper.endpoints()).await;
    let error = locks_on(&store, secs(30)).lock("job").acquire().await.unwrap_err();
    assert_eq!(error.kind(), lock_core::ErrorKind::InvalidConfig, "{error:?}");
    assert!(error.to_string().contains("maxSessionTimeout"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_realm_is_seen_by_who_connects_later() {
    let zookeeper = ZooKeeper::start(1);
    let first = store(zookeeper.endpoints()).await;
    let old = first.realm();
    let new = first.new_realm().await.unwrap();
    assert!(new != old && first.realm() == new);
    assert_eq!(store(zookeeper.endpoints()).await.realm(), new);
}
