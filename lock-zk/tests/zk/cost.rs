//! The writes that a lock costs the ensemble.

use lock_testkit::ZooKeeper;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::fixture::{client, locks, secs};

/// Makes a transaction, and gives its number.
async fn next_zxid(client: &Client) -> i64 {
    match client.set_data("/count", b"", None).await {
        Ok(stat) => stat.mzxid,
        Err(_) => {
            let mode = CreateMode::Persistent.with_acls(Acls::anyone_all());
            client.create("/count", b"", &mode).await.unwrap().0.czxid
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_free_costs_two_writes_and_a_try_for_a_held_one_costs_none() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, theirs) = (locks(zookeeper.endpoints(), secs(100)).await, locks(zookeeper.endpoints(), secs(100)).await);
    let client = client(&zookeeper).await;
    // Opens the sessions, and makes the lock node.
    ours.lock("job").acquire().await.unwrap().release().await.unwrap();
    let held = theirs.lock("held").acquire().await.unwrap();

    let before = next_zxid(&client).await;
    for _ in 0..50 {
        ours.lock("job").acquire().await.unwrap().release().await.unwrap();
    }
    assert_eq!(next_zxid(&client).await - before - 1, 100, "50 cycles");

    let before = next_zxid(&client).await;
    for _ in 0..50 {
        assert!(ours.lock("held").try_acquire().await.unwrap().is_none());
    }
    assert_eq!(next_zxid(&client).await - before - 1, 0, "50 tries");
    held.release().await.unwrap();
}
