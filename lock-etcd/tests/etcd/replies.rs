//! Lost replies.

use std::time::Duration;

use lock_core::{Claim, LockStore, ReleaseOutcome};
use lock_testkit::Etcd;

use crate::fixture::{keys, locks, locks_on, secs, store, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_try_whose_reply_was_lost_is_given_back_and_costs_no_other_lease() {
    let etcd = Etcd::start(1);
    let ours = locks(etcd.proxy_endpoints(), secs(10)).await;
    let other = ours.lock("other").acquire().await.unwrap();
    etcd.member(0).proxy().lose_replies();
    let tried = tokio::spawn(ours.lock("job").try_acquire());
    until("its key", || async { keys(&etcd, "job").len() == 1 }).await;
    let error = tried.await.unwrap().unwrap_err();
    assert!(error.may_have_taken_effect(), "{error:?}");
    etcd.member(0).proxy().forward();
    until("its end", || async { keys(&etcd, "job").is_empty() }).await;
    // The withdrawal of a claim in doubt goes on for a TTL.
    within_bound("its withdrawal", ours.close()).await;
    assert!(other.is_valid(), "{:?}", other.check());
    assert_eq!(keys(&etcd, "job"), [""; 0]);
    other.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_whose_reply_was_lost_asks_again_and_has_one_key() {
    let etcd = Etcd::start(1);
    let ours = locks(etcd.proxy_endpoints(), secs(30)).await;
    ours.lock("first").acquire().await.unwrap().release().await.unwrap();
    etcd.member(0).proxy().lose_replies();
    let acquire = tokio::spawn(ours.lock("job").acquire());
    until("its key", || async { keys(&etcd, "job").len() == 1 }).await;
    let key = keys(&etcd, "job");
    etcd.member(0).proxy().forward();
    let guard = within_bound("the acquire", acquire).await.unwrap().unwrap();
    assert_eq!(keys(&etcd, "job"), key);
    guard.release().await.unwrap();
    assert_eq!(keys(&etcd, "job"), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_comes_after_its_withdrawal_does_nothing() {
    let etcd = Etcd::start(1);
    let (through, direct) = (store(etcd.proxy_endpoints()).await, store(etcd.endpoints()).await);
    let claim = Claim::new(lock_core::LockName::new("job").unwrap(), secs(30));
    etcd.member(0).proxy().lose_replies();
    // The session is opened first: the reply to its own grant would be lost too.
    etcd.member(0).proxy().forward();
    let other = Claim::new(lock_core::LockName::new("other").unwrap(), secs(30));
    through.request(&other).await.unwrap();
    etcd.member(0).proxy().lose_replies();
    assert!(through.request(&claim).await.unwrap_err().may_have_taken_effect());
    etcd.member(0).proxy().forward();
    assert_eq!(direct.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    // The same holder's request again, as if it had been in flight: the claim is withdrawn.
    drop(through.request(&claim).await.unwrap());
    assert_eq!(keys(&etcd, "job"), [""; 0]);
    let next = locks_on(&direct, secs(30)).lock("job").try_acquire().await.unwrap();
    assert!(next.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_reply_was_lost_keeps_its_place() {
    let etcd = Etcd::start(1);
    let (ours, theirs) = (locks(etcd.proxy_endpoints(), secs(30)).await, locks(etcd.endpoints(), secs(30)).await);
    ours.lock("first").acquire().await.unwrap().release().await.unwrap();
    let holder = theirs.lock("job").acquire().await.unwrap();
    etcd.member(0).proxy().lose_replies();
    let second = tokio::spawn(ours.lock("job").acquire());
    until("its place", || async { keys(&etcd, "job").len() == 2 }).await;
    let third = tokio::spawn(theirs.lock("job").acquire());
    until("the third place", || async { keys(&etcd, "job").len() == 3 }).await;
    etcd.member(0).proxy().forward();
    holder.release().await.unwrap();
    let second = within_bound("the second", second).await.unwrap().unwrap();
    assert!(!third.is_finished(), "who came later is served first");
    let token = second.token_if_any().cloned();
    second.release().await.unwrap();
    let third = within_bound("the third", third).await.unwrap().unwrap();
    assert!(third.token_if_any() > token.as_ref());
    third.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_changes_nothing() {
    let etcd = Etcd::start(1);
    etcd.member(0).proxy().delay(Duration::from_millis(40));
    let ours = locks(etcd.proxy_endpoints(), secs(10)).await;
    let guard = ours.lock("job").acquire().await.unwrap();
    for _ in 0..3 {
        guard.renew().await.unwrap();
    }
    assert!(guard.is_valid(), "{:?}", guard.check());
    guard.release().await.unwrap();
}
