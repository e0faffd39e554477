//! Keys that another program deleted, and keys without a claim.

use std::time::Instant;

use lock_core::{LockGuard, LossReason};

use crate::fixture::{keys, lease_of, locks, locks_on, secs, shared_server, store, unique_name, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_deleted_is_noticed_within_one_renewal_round() {
    let (etcd, name) = (shared_server(), unique_name("deleted"));
    let locks = locks(etcd.endpoints(), secs(15)).await;
    let other = locks.lock(unique_name("other")).acquire().await.unwrap();
    let guard = locks.lock(&name).acquire().await.unwrap();
    let key = keys(etcd, name.as_str()).remove(0);
    assert!(etcd.etcdctl().args(["del", &key]).status().unwrap().success());
    // It would be valid for ten seconds more, and renewed after five.
    let reason = within_bound("the loss", guard.lost()).await;
    assert_eq!(reason, LossReason::NotHeld, "it was lost otherwise");
    assert!(other.is_valid(), "{:?}", other.check());
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_on_the_session_that_nobody_claims_is_deleted() {
    let (etcd, name) = (shared_server(), unique_name("orphan"));
    let locks = locks(etcd.endpoints(), secs(9)).await;
    let guard = locks.lock(unique_name("other")).acquire().await.unwrap();
    let lease = lease_of(etcd, guard.name().as_str());
    let orphan = format!("{name}/{lease}");
    assert!(etcd.etcdctl().args(["put", "--lease", &lease, &orphan, "{}"]).status().unwrap().success());
    assert!(locks.lock(&name).try_acquire().await.unwrap().is_none());
    until("its end", || async { keys(etcd, name.as_str()).is_empty() }).await;
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_somebody_revoked_is_lost_with_all_its_leases_and_a_new_one_is_opened() {
    let (etcd, name) = (shared_server(), unique_name("revoked"));
    let store = store(etcd.endpoints()).await;
    let locks = locks_on(&store, secs(30));
    let guards = [locks.lock(&name).acquire().await.unwrap(), locks.lock(unique_name("too")).acquire().await.unwrap()];
    let lease = lease_of(etcd, name.as_str());
    assert!(etcd.etcdctl().args(["lease", "revoke", &lease]).status().unwrap().success());
    // The first call that needs the session notices its end, and ends it for all its locks.
    let next = locks.lock(unique_name("next")).acquire().await.unwrap();
    for guard in &guards {
        assert_eq!(guard.check(), Err(LossReason::SessionEnded));
    }
    assert!(next.is_valid());
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_locks_cost_one_heartbeat() {
    let (etcd, prefix) = (shared_server(), unique_name("many"));
    let locks = locks(etcd.endpoints(), secs(60)).await;
    let (began, mut guards) = (Instant::now(), Vec::new());
    for i in 0..200 {
        guards.push(locks.lock(format!("{prefix}-{i}")).acquire().await.unwrap());
    }
    let leases: std::collections::HashSet<_> =
        guards.iter().map(|guard| lease_of(etcd, guard.name().as_str())).collect();
    assert_eq!(leases.len(), 1, "one etcd lease carries all");
    let ends: Vec<_> = guards.iter().map(|guard| guard.remaining() + began.elapsed()).collect();
    guards[0].renew().await.unwrap();
    let is_later = |(guard, end): (&LockGuard, _)| began.elapsed() + guard.remaining() > end;
    assert!(guards.iter().zip(ends).all(is_later), "one heartbeat renews all");
    drop(guards);
    locks.close().await;
}
