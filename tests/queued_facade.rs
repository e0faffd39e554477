//! The stores that queue, through the facade: for correctness, by URL.

use std::time::Duration;

use leasehold::{BreakMode, ErrorKind, Fence, Guarantees, WaitStyle};
use lock_testkit::{Etcd, ZooKeeper};

#[tokio::test(flavor = "multi_thread")]
async fn etcd_gives_locks_for_correctness_whose_tokens_a_fence_compares() {
    let etcd = Etcd::start(1);
    gives_locks_for_correctness(&format!("etcd://{}/app", etcd.endpoints()[0])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_gives_locks_for_correctness_whose_tokens_a_fence_compares() {
    let zookeeper = ZooKeeper::start(1);
    gives_locks_for_correctness(&format!("zk://{}/app", zookeeper.endpoints()[0])).await;
}

async fn gives_locks_for_correctness(url: &str) {
    let least = Guarantees::NONE.waiting(WaitStyle::Queued);
    let locks = leasehold::connect(url).require(least).for_correctness().await.expect("the store is enough");
    let fence = Fence::in_memory();

    let first = locks.lock("invoice/42").ttl(Duration::from_secs(5)).acquire().await.expect("it is free");
    drop(fence.enter(first.name(), first.token()).await.expect("nobody was there"));
    let seen = locks.inspect("invoice/42").await.expect("the store answers").pop().expect("it is held");
    let broken = locks.break_lock("invoice/42", &seen, BreakMode::Now).await;
    let broken = broken.expect("the store answers").expect("it was held");
    fence.raise(first.name(), broken.token.as_ref().expect("a token is used up")).expect("it is greater");
    let error = fence.enter(first.name(), first.token()).await.expect_err("the evicted holder is refused");
    assert_eq!(error.kind(), ErrorKind::Fenced);

    let second = locks.lock("invoice/42").acquire().await.expect("it is free");
    assert!(*second.token() > *first.token());
    drop(fence.enter(second.name(), second.token()).await.expect("the new holder is admitted"));
    second.release().await.expect("it was held");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_is_unavailable_and_nothing_was_changed() {
    for scheme in ["etcd", "zk"] {
        let port = lock_testkit::free_port();
        let error = leasehold::connect(format!("{scheme}://127.0.0.1:{port}")).await.expect_err("nobody listens there");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(!error.may_have_taken_effect(), "{error:?}");
    }
}
