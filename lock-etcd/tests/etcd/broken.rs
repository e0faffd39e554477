//! Keys that are gone, and keys that nobody claims.

use std::time::Instant;

use lock_core::{LockGuard, LossReason};

use crate::bed::{fresh, keys, lease_of, locks, locks_on, secs, shared, store, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_somebody_deleted_is_noticed_within_one_renewal_round() {
    let (etcd, name) = (shared(), fresh("deleted"));
    let locks = locks(etcd.endpoints(), secs(15)).await;
    let other = locks.lock(fresh("other")).acquire().await.unwrap();
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
    let (etcd, name) = (shared(), fresh("orphan"));
    let locks = locks(etcd.endpoints(), secs(9)).await;
    let guard = locks.lock(fresh("other")).acquire().await.unwrap();
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
    let (etcd, name) = (shared(), fresh("revoked"));
    let store = store(etcd.endpoints()).await;
    let locks = locks_on(&store, secs(30));
    let guards = [locks.lock(&name).acquire().await.unwrap(), locks.lock(fresh("too")).acquire().await.unwrap()];
    let lease = lease_of(etcd, name.as_str());
    assert!(etcd.etcdctl().args(["lease", "revoke", &lease]).status().unwrap().success());
    // The first call that needs the session learns it, and tells everybody.
    let next = locks.lock(fresh("next")).acquire().await.unwrap();
    for guard in &guards {
        assert_eq!(guard.check(), Err(LossReason::SessionEnded));
    }
    assert!(next.is_valid());
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn many_locks_cost_one_heartbeat() {
    let (etcd, prefix) = (shared(), fresh("many"));
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
