//! Redis through the facade: a quorum of servers, by URL, for correctness.

use leasehold::{ErrorKind, Fence};
use lock_testkit::{RedisServer, redlock_url};

#[tokio::test(flavor = "multi_thread")]
async fn redlock_gives_locks_for_correctness_over_servers_that_sync_every_write_and_over_no_others() {
    let synced = ["--appendonly", "yes", "--appendfsync", "always"];
    let mut servers: Vec<_> = (0..3).map(|_| RedisServer::start(&synced)).collect();
    let url = |servers: &[RedisServer]| redlock_url(servers) + "?connect_timeout=30s&member_timeout=4s&longest_ttl=10m";
    let locks = leasehold::connect(url(&servers)).for_correctness().await.expect("every member keeps every write");
    let fence = Fence::in_memory();
    let first = locks.lock("invoice/42").acquire().await.expect("it is free");
    let token = first.token().clone();
    first.release().await.expect("it was held");
    let second = locks.lock("invoice/42").acquire().await.expect("it is free");
    drop(fence.enter(second.name(), second.token()).await.expect("nobody was there"));
    let error = fence.enter(second.name(), &token).await.expect_err("it is older");
    assert_eq!(error.kind(), ErrorKind::Fenced);
    // One member may be down.
    servers[0].kill();
    second.release().await.expect("a majority knew it");
    let third = locks.lock("invoice/42").acquire().await.expect("it is free");
    assert!(*third.token() > token);
    servers[0] = RedisServer::start(&[]);
    let error = leasehold::connect(url(&servers)).for_correctness().await.expect_err("one keeps nothing");
    assert_eq!(error.kind(), ErrorKind::TooWeak, "{error}");
}
