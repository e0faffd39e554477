//! Benchmarks of the etcd store, against the bare client on a real server.
//!
//! `cargo bench -p lock-etcd --bench etcd`; it prints rates and ratios, and asserts nothing: the
//! machine may be busy.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on shall panic")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use lock_core::{Clock, Locks};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::Etcd;

const ROUNDS: usize = 41;
const CYCLES_PER_ROUND: u32 = 50;
const WAITERS: usize = 16;
const HAND_OVER_ROUNDS: usize = 3;
const HAND_OVER_ROUND_DURATION: Duration = Duration::from_secs(2);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let etcd = Etcd::start(1);
    let mut config = EtcdConfig::new(etcd.endpoints()).prefix("bench/");
    config.response_timeout = Duration::from_secs(5);
    let locks = Locks::new(EtcdStore::connect(config, &Clock::system()).await.unwrap());
    let client = Client::connect(etcd.endpoints(), None).await.unwrap();
    bench_cycles(&locks, &client).await;
    bench_hand_overs(&locks, &client).await;
    bench_renewals(&locks, &etcd).await;
}

/// One task, one key: acquire and release, against put-if-absent and delete.
async fn bench_cycles(locks: &Locks, client: &Client) {
    let lease = client.lease_client().grant(60, None).await.unwrap().id();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(
            rate(CYCLES_PER_ROUND, || async { locks.lock("job").acquire().await.unwrap().release().await.unwrap() })
                .await,
        );
        bare.push(rate(CYCLES_PER_ROUND, || bare_cycle(client, lease)).await);
    }
    let ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
    println!("cycle, one task, one key: {:.0}/s; put-if-absent and delete: {:.0}/s", median(ours), median(bare));
    println!("  ratio: {:.2} (0.9 is the aim)", median(ratios));
}

async fn bare_cycle(client: &Client, lease: i64) {
    let absent = Compare::create_revision("bare", CompareOp::Equal, 0);
    let put = TxnOp::put("bare", "x", Some(PutOptions::new().with_lease(lease)));
    assert!(client.kv_client().txn(Txn::new().when([absent]).and_then([put])).await.unwrap().succeeded());
    client.kv_client().delete("bare", None).await.unwrap();
}

/// Sixteen waiters on one name, against the Lock RPC.
async fn bench_hand_overs(locks: &Locks, client: &Client) {
    let (mut ours, mut rpc) = (Vec::new(), Vec::new());
    for _ in 0..HAND_OVER_ROUNDS {
        let locks = locks.clone();
        let own = move || {
            let locks = locks.clone();
            async move { locks.lock("contended").acquire().await.unwrap().release().await.unwrap() }
        };
        ours.push(hand_over_rate(own).await);
        let client = client.clone();
        let other = move || {
            let client = client.clone();
            async move { rpc_cycle(&client).await }
        };
        rpc.push(hand_over_rate(other).await);
    }
    let ratios: Vec<f64> = ours.iter().zip(&rpc).map(|(ours, rpc)| ours / rpc).collect();
    println!("hand-over with {WAITERS} waiters: {:.0}/s; the Lock RPC: {:.0}/s", median(ours), median(rpc));
    println!("  ratio: {:.1} (5 is the aim)", median(ratios));
}

async fn rpc_cycle(client: &Client) {
    let lease = client.lease_client().grant(60, None).await.unwrap().id();
    let lock = LockOptions::new().with_lease(lease);
    let key = client.lock_client().lock("rpc", Some(lock)).await.unwrap().key().to_vec();
    client.lock_client().unlock(key).await.unwrap();
    client.lease_client().revoke(lease).await.unwrap();
}

async fn hand_over_rate<F: Future<Output = ()> + Send>(cycle: impl Fn() -> F + Clone + Send + Sync + 'static) -> f64 {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..WAITERS {
        let (cycle, done, over) = (cycle.clone(), done.clone(), over.clone());
        tasks.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                cycle().await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // All waiters arrive before the measurement begins.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (from, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(HAND_OVER_ROUND_DURATION).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / from.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    while tasks.join_next().await.is_some() {}
    rate
}

/// Ten thousand renewed locks: one round renews them all.
async fn bench_renewals(locks: &Locks, etcd: &Etcd) {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..100 {
        let locks = locks.clone();
        tasks.spawn(async move {
            let mut guards = Vec::new();
            for i in 0..100 {
                let name = format!("many/{}", first * 100 + i);
                guards.push(locks.lock(name).ttl(Duration::from_secs(300)).acquire().await.unwrap());
            }
            guards
        });
    }
    let mut guards = Vec::new();
    while let Some(some) = tasks.join_next().await {
        guards.extend(some.unwrap());
    }
    println!("{} renewed locks in {:.1?}", guards.len(), begun.elapsed());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let (begun, before) = (Instant::now(), etcd.committed_proposals());
        guards[0].renew().await.unwrap();
        let proposals = etcd.committed_proposals() - before;
        assert!(proposals <= 1, "a renewal round made {proposals} proposals");
        rounds.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    println!("  one renewal round of them all, with a look at every key: {:.1} ms", median(rounds));
    drop(guards);
    locks.close().await;
}

async fn rate<F: Future<Output = ()>>(times: u32, cycle: impl Fn() -> F) -> f64 {
    let begun = Instant::now();
    for _ in 0..times {
        cycle().await;
    }
    f64::from(times) / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
