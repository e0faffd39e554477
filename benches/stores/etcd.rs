//! A lock in etcd, beside the bare client on one member.

use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use leasehold::Locks;
use lock_testkit::Etcd;

use crate::locks::{hold_many, one_name, own_names};
use crate::measure::{compare, median, rate, repeat};

const WAITERS: usize = 16;

pub(crate) async fn run() {
    let etcd = Etcd::start(1);
    let url = format!("etcd://{}/bench/?response_timeout=5s", etcd.endpoints().join(","));
    let locks = leasehold::connect(url).await.expect("a store");
    let client = Client::connect(etcd.endpoints(), None).await.expect("a client");
    let lease = client.lease_client().grant(3600, None).await.expect("a lease").id();
    let (ours, bare) = (async || own_names(&locks, 1).await, async || bare_rate(&client, lease).await);
    compare("1 task", ours, "a put-if-absent and a delete", bare).await;
    let (ours, rpc) = (async || one_name(&locks, WAITERS).await, async || rpc_rate(&client).await);
    compare(&format!("{WAITERS} tasks on one name"), ours, "the Lock RPC", rpc).await;
    renewals(&locks, &etcd).await;
}

async fn bare_rate(client: &Client, lease: i64) -> f64 {
    rate(1, |_, until| {
        let client = client.clone();
        async move { repeat(until, || bare_cycle(&client, lease)).await }
    })
    .await
}

async fn bare_cycle(client: &Client, lease: i64) {
    let absent = Compare::create_revision("bare", CompareOp::Equal, 0);
    let put = TxnOp::put("bare", "x", Some(PutOptions::new().with_lease(lease)));
    let acquired = client.kv_client().txn(Txn::new().when([absent]).and_then([put])).await.expect("an answer");
    assert!(acquired.succeeded(), "it is free");
    client.kv_client().delete("bare", None).await.expect("it is deleted");
}

async fn rpc_rate(client: &Client) -> f64 {
    rate(WAITERS, |_, until| {
        let client = client.clone();
        async move { repeat(until, || rpc_cycle(&client)).await }
    })
    .await
}

async fn rpc_cycle(client: &Client) {
    let lease = client.lease_client().grant(60, None).await.expect("a lease").id();
    let lock = LockOptions::new().with_lease(lease);
    let key = client.lock_client().lock("rpc", Some(lock)).await.expect("it becomes free").key().to_vec();
    client.lock_client().unlock(key).await.expect("it was held");
    client.lease_client().revoke(lease).await.expect("it is revoked");
}

/// One round renews them all.
async fn renewals(locks: &Locks, etcd: &Etcd) {
    const ROUNDS: usize = 41;
    let guards = hold_many(locks, Duration::from_secs(300)).await;
    let (mut millis, mut most) = (Vec::new(), 0);
    for _ in 0..ROUNDS {
        let (started, before) = (Instant::now(), etcd.committed_proposals());
        guards[0].renew().await.expect("it is held");
        most = most.max(etcd.committed_proposals() - before);
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    println!("  one renewal round of them all: {:.1} ms, and at most {most} proposals", median(millis));
    drop(guards);
    locks.close().await;
}
