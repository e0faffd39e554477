//! A leader that was paused, deposed and cut off answers keepalives for a while: no guard may believe them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Fence, FencingToken, LockGuard, LockName, Locks};
use lock_testkit::{Etcd, until};

use crate::bed::{lease_of, locks, secs, soon};

/// How many cuts: a few, or as many as the environment asks for.
fn cuts() -> u32 {
    std::env::var("LEASEHOLD_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(3)
}

/// Asks the member for keepalives as a plain client does, and counts what it answers.
async fn plain_keepalives(endpoint: String, lease: i64, over: Arc<AtomicBool>) -> u32 {
    let client = etcd_client::Client::connect([endpoint], None).await.unwrap();
    let mut answered = 0;
    while !over.load(Ordering::Relaxed) {
        let asked = async { client.lease_client().keep_alive(lease).await };
        let asked = tokio::time::timeout(Duration::from_millis(100), asked).await;
        answered += u32::from(matches!(asked, Ok(Ok(_))));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    answered
}

/// Acquires, through elections too that take longer than a store is waited for.
async fn acquire(locks: Locks, name: LockName) -> LockGuard {
    loop {
        match locks.lock(&name).acquire().await {
            Ok(guard) => return guard,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_leader_makes_no_guard_believe_past_the_next_grant() {
    let etcd = Arc::new(Etcd::start_linked(3));
    let name = LockName::new("job").unwrap();
    let mut stale_answers = 0;
    for cut in 0..cuts() {
        let (stale, endpoints) = (etcd.leader(), etcd.endpoints());
        // Everything that this holder hears comes from the member that will be stale.
        let theirs = locks(vec![endpoints[stale].clone()], secs(3)).await;
        let others = endpoints.iter().enumerate().filter(|(i, _)| *i != stale).map(|(_, e)| e.clone()).collect();
        let next = locks(others, secs(3)).await;
        let holder = soon("an acquire", acquire(theirs, name.clone())).await;
        let old: FencingToken = holder.token_if_any().cloned().unwrap();
        let lease = i64::from_str_radix(&lease_of(&etcd, name.as_str()), 16).unwrap();
        // Another phase of the renewals at each cut.
        tokio::time::sleep(Duration::from_millis(u64::from(cut) * 370 % 1_000)).await;
        let process = etcd.member(stale).process();
        process.pause();
        let waiter = tokio::spawn(acquire(next, name.clone()));
        let (leads, looks) = (etcd.clone(), stale);
        tokio::task::spawn_blocking(move || leads.leader_but(looks)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(cut) * 530 % 2_000)).await;
        etcd.isolate(stale);
        process.resume();
        let over = Arc::new(AtomicBool::new(false));
        let plain = tokio::spawn(plain_keepalives(endpoints[stale].clone(), lease, over.clone()));

        let granted = soon("the next grant", waiter).await.unwrap();
        assert!(!holder.is_valid(), "cut {cut}: believed {:?} past the next grant", holder.remaining());
        over.store(true, Ordering::Relaxed);
        stale_answers += plain.await.unwrap();

        // What comes late all the same is fenced.
        let resource = Fence::in_memory();
        drop(resource.enter(&name, granted.token_if_any().unwrap()).await.unwrap());
        assert!(resource.enter(&name, &old).await.is_err());
        // Its answer may be lost in the turmoil; then that is what it says.
        let released = granted.release().await;
        assert!(released.as_ref().err().is_none_or(|error| error.may_have_taken_effect()), "{released:?}");
        drop(holder);
        etcd.rejoin(stale);
        let healed = etcd.clone();
        let all = move || until("all members", || healed.all_follow().then_some(()));
        tokio::task::spawn_blocking(all).await.unwrap();
    }
    println!("{} cuts, {stale_answers} plain keepalives answered by stale leaders", cuts());
}
