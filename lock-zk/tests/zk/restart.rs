//! Restart of all servers from their disks.

use lock_testkit::ZooKeeper;

use crate::fixture::{locks, secs, within_bound};

async fn assert_locks_survive(servers: usize) {
    let mut zookeeper = ZooKeeper::start(servers);
    let (ours, theirs) = (locks(zookeeper.endpoints(), secs(60)).await, locks(zookeeper.endpoints(), secs(60)).await);
    let mut guards = Vec::new();
    for i in 0..10 {
        guards.push(ours.lock(format!("job/{i}")).acquire().await.unwrap());
    }
    zookeeper.kill_all();
    zookeeper.start_all();
    for (i, guard) in guards.into_iter().enumerate() {
        let name = format!("job/{i}");
        within_bound("a renewal", async { while guard.renew().await.is_err() {} }).await;
        assert!(guard.is_valid(), "{:?}", guard.check());
        let held = within_bound("a try", async {
            loop {
                match theirs.lock(&name).try_acquire().await {
                    Ok(guard) => return guard.is_none(),
                    Err(error) => assert!(error.is_retryable(), "{error:?}"),
                }
            }
        });
        assert!(held.await, "a held lock was lost");
        let token = guard.token_if_any().cloned().unwrap();
        guard.release().await.unwrap();
        let next = within_bound("an acquire", theirs.lock(&name).acquire()).await.unwrap();
        assert!(*next.token_if_any().unwrap() > token, "a token fell");
        next.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_only_server_loses_no_lock_and_lets_no_token_fall() {
    assert_locks_survive(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_three_servers_loses_no_lock_and_lets_no_token_fall() {
    assert_locks_survive(3).await;
}
