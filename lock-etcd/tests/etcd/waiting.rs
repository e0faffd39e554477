//! Waiters, and the end of their own lease.

use std::time::Duration;

use lock_core::{Attempt, Claim, LockName, LockStore};
use lock_testkit::Etcd;

use crate::fixture::{keys, locks, secs, shared_server, store, unique_name, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_own_lease_ended_is_not_granted_what_it_no_longer_has() {
    let (etcd, name) = (shared_server(), unique_name("expired-waiter"));
    let (ours, theirs) = (store(etcd.endpoints()).await, locks(etcd.endpoints(), secs(30)).await);
    let holder = theirs.lock(&name).acquire().await.unwrap();
    // Without an engine it is not renewed.
    let waiter = Claim::queueing(name.clone(), secs(4));
    assert!(matches!(ours.request(&waiter).await.unwrap(), Attempt::Held(_)));
    let place = keys(etcd, name.as_str());
    assert_eq!(place.len(), 2);
    until("the end of its place", || async { keys(etcd, name.as_str()).len() == 1 }).await;
    let newcomer = tokio::spawn(theirs.lock(&name).acquire());
    until("the newcomer's place", || async { keys(etcd, name.as_str()).len() == 2 }).await;
    holder.release().await.unwrap();
    let newcomer = within_bound("the newcomer", newcomer).await.unwrap().unwrap();
    match ours.request(&waiter).await.unwrap() {
        Attempt::Held(held) => assert_eq!(held.by.holder, Some(newcomer.holder())),
        Attempt::Granted(lease) => panic!("granted with a lease that has ended: {lease:?}"),
    }
    newcomer.release().await.unwrap();
    ours.release(&waiter, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_notices_the_end_of_its_session_and_takes_a_new_place() {
    let etcd = Etcd::start(1);
    let (ours, theirs) = (locks(etcd.proxy_endpoints(), secs(5)).await, locks(etcd.endpoints(), secs(30)).await);
    let holder = theirs.lock("job").acquire().await.unwrap();
    let waiter = tokio::spawn(ours.lock("job").acquire());
    until("its place", || async { keys(&etcd, "job").len() == 2 }).await;
    let place = keys(&etcd, "job");
    etcd.member(0).proxy().hold();
    until("the end of its place", || async { keys(&etcd, "job").len() == 1 }).await;
    etcd.member(0).proxy().forward();
    until("its new place", || async { keys(&etcd, "job").len() == 2 }).await;
    assert_ne!(keys(&etcd, "job"), place);
    holder.release().await.unwrap();
    let guard = within_bound("its turn", waiter).await.unwrap().unwrap();
    assert!(guard.is_valid());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_does_not_disturb_who_waits() {
    let (etcd, name) = (shared_server(), unique_name("compacted"));
    let locks = locks(etcd.endpoints(), secs(30)).await;
    let holder = locks.lock(&name).acquire().await.unwrap();
    let waiter = tokio::spawn(locks.lock(&name).acquire());
    until("its place", || async { keys(etcd, name.as_str()).len() == 2 }).await;
    let last = locks.lock(unique_name("revision")).acquire().await.unwrap().token_if_any().unwrap().number();
    assert!(etcd.etcdctl().args(["compact", &last.to_string()]).status().unwrap().success());
    holder.release().await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_claims_of_one_session_for_one_name_are_kept_apart() {
    let (etcd, name) = (shared_server(), unique_name("apart"));
    let ours = store(etcd.endpoints()).await;
    let claim = || Claim::queueing(LockName::new(&name).unwrap(), secs(30));
    let (first, second) = (claim(), claim());
    let Attempt::Granted(lease) = ours.request(&first).await.unwrap() else { panic!("the lock was held") };
    let Attempt::Held(held) = ours.request(&second).await.unwrap() else { panic!("the lock was free") };
    assert!(lease.session.is_some());
    assert_eq!(lease.session, held.session, "they are on one session");
    ours.release(&first, Duration::ZERO).await.unwrap();
    ours.release(&first, Duration::ZERO).await.unwrap();
    assert!(matches!(ours.request(&second).await.unwrap(), Attempt::Granted(_)));
    ours.release(&second, Duration::ZERO).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fixed_lease_has_an_etcd_lease_of_its_own_and_ends_without_renewal() {
    let (etcd, name) = (shared_server(), unique_name("fixed"));
    let locks = locks(etcd.endpoints(), secs(5)).await;
    let renewed = locks.lock(unique_name("renewed")).acquire().await.unwrap();
    let fixed = locks.lock(&name).fixed().acquire().await.unwrap();
    fixed.renew().await.unwrap();
    assert_eq!(within_bound("its end", fixed.lost()).await, lock_core::LossReason::Expired);
    until("its key's end", || async { keys(etcd, name.as_str()).is_empty() }).await;
    assert!(renewed.is_valid());
    renewed.release().await.unwrap();
}
