//! A follower that is cut off goes on answering its clients for a while: no guard may rely on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lock_core::{Fence, FencingToken, LockGuard, LockName, Locks};
use lock_testkit::{ZooKeeper, until};
use zookeeper_client::Client;

use crate::fixture::{client, locks, nodes, secs, within_bound};

/// The number of cuts: three, or that in the environment.
fn cuts() -> u32 {
    std::env::var("LEASEHOLD_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(3)
}

const TTL: Duration = secs(2);

/// Reads the holder's node from the follower, as a client does that takes an answer for a sign of
/// life; gives the times of the answers that still had the node.
async fn plain_readings(follower: String, node: String, over: Arc<AtomicBool>) -> Vec<Instant> {
    let client = Client::connector().with_session_timeout(secs(60)).connect(&follower).await.unwrap();
    let mut answered = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let read = tokio::time::timeout(Duration::from_millis(200), client.check_stat(&node)).await;
        if matches!(read, Ok(Ok(Some(_)))) {
            answered.push(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    answered
}

/// Acquires, with retries during elections.
async fn acquire(locks: Locks, name: LockName) -> LockGuard {
    loop {
        match locks.lock(&name).acquire().await {
            Ok(guard) => return guard,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_that_is_cut_off_makes_no_guard_believe_past_the_next_grant() {
    let zookeeper = Arc::new(ZooKeeper::start_linked(3));
    let (mut stale_readings, mut caught) = (0, 0);
    for cut in 0..cuts() {
        let name = LockName::new(format!("job-{cut}")).unwrap();
        let (leader, endpoints) = (zookeeper.leader(), zookeeper.endpoints());
        let follower = (leader + 1 + cut as usize % 2) % 3;
        // This holder is connected to the follower that will be cut off.
        let theirs = locks(vec![endpoints[follower].clone()], TTL).await;
        let others = endpoints.iter().enumerate().filter(|(i, _)| *i != follower).map(|(_, e)| e.clone()).collect();
        let next = locks(others, TTL).await;
        let holder = within_bound("an acquire", acquire(theirs, name.clone())).await;
        let old: FencingToken = holder.token_if_any().cloned().unwrap();
        let node = nodes(&client(&zookeeper).await, name.as_str()).await.remove(0);
        let over = Arc::new(AtomicBool::new(false));
        let plain = tokio::spawn(plain_readings(endpoints[follower].clone(), node, over.clone()));
        let waiter = tokio::spawn(acquire(next, name.clone()));
        // Another phase of the renewals at each cut.
        tokio::time::sleep(Duration::from_millis(500 + u64::from(cut) * 370 % 1_000)).await;
        zookeeper.isolate(follower);

        let granted = within_bound("the next grant", waiter).await.unwrap();
        let at = Instant::now();
        assert!(!holder.is_valid(), "cut {cut}: believed {:?} past the next grant", holder.remaining());
        // The follower gives up by itself, after its limit.
        tokio::time::sleep(ZooKeeper::TICK).await;
        over.store(true, Ordering::Relaxed);
        let answered = within_bound("the readings", plain).await.unwrap();
        let past = answered.iter().filter(|answer| **answer > at).count();
        stale_readings += past;
        // A plain rule believes for a TTL from the last answer, or at least from its request.
        caught += u32::from(answered.last().is_some_and(|last| *last + TTL - Duration::from_millis(200) > at));

        // A late write is fenced all the same.
        let resource = Fence::in_memory();
        drop(resource.enter(&name, granted.token_if_any().unwrap()).await.unwrap());
        assert!(resource.enter(&name, &old).await.is_err());
        // The answer may be lost during the election; then its effect is unknown.
        let released = granted.release().await;
        assert!(released.as_ref().err().is_none_or(|error| error.may_have_taken_effect()), "{released:?}");
        drop(holder);
        zookeeper.rejoin(follower);
        let healed = zookeeper.clone();
        let all = move || until("all servers", || healed.is_healthy().then_some(()));
        tokio::task::spawn_blocking(all).await.unwrap();
    }
    let cuts = cuts();
    println!("{cuts} cuts: {stale_readings} readings answered past the next grant; a plain rule was wrong in {caught}");
    assert!(caught > 0, "no cut would have caught a plain heartbeat: this test shows nothing");
}
