//! Replies of another cluster, or of the same one with older data: the handle refuses them.

use std::time::Duration;

use lock_core::{Attempt, Claim, Clock, ErrorKind, LockName, LockStore, LossReason, Space};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::Etcd;

use crate::fixture::{locks, locks_on, secs, start_waiting, store, within_bound};

/// Changes a cluster, and checks the effect: earlier holders are lost at once, the handle refuses
/// every call, and a new handle acquires.
async fn check_noticed(mut etcd: Etcd, change: impl FnOnce(&mut Etcd) + Send + 'static) {
    let store = store(etcd.endpoints()).await;
    let locks = locks_on(&store, secs(600));
    let renewed = locks.lock("renewed").acquire().await.unwrap();
    for _ in 0..10 {
        locks.lock("often").acquire().await.unwrap().release().await.unwrap();
    }
    let fixed = locks.lock("fixed").fixed().acquire().await.unwrap();
    let etcd = tokio::task::spawn_blocking(move || {
        change(&mut etcd);
        etcd
    });
    let etcd = etcd.await.unwrap();
    let refused = loop {
        match within_bound("an answer", locks.lock("often").try_acquire()).await {
            Ok(granted) => panic!("the other cluster granted {:?}", granted.map(|guard| guard.token_if_any().cloned())),
            Err(error) if error.is_retryable() => {}
            Err(error) => break error,
        }
    };
    let text = refused.to_string();
    assert_eq!(refused.kind(), ErrorKind::Protocol, "{refused:?}");
    assert!(text.contains("anew") && !text.contains('\n'), "{text}");
    for guard in [&renewed, &fixed] {
        let loss = guard.check().expect_err("a guard of the old cluster is lost at once");
        assert_ne!(loss, LossReason::Expired);
    }
    // Nothing but a new handle goes on.
    assert_eq!(locks.inspect("renewed").await.unwrap_err().to_string(), text);
    assert_eq!(locks.lock("new").acquire().await.unwrap_err().to_string(), text);
    within_bound("the end of the old handle", locks.close()).await;

    let anew = locks_on(&crate::fixture::store(etcd.endpoints()).await, secs(30));
    let guard = within_bound("an acquire", anew.lock("often").acquire()).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_replaced_at_the_same_address_is_refused_and_all_its_locks_are_lost() {
    check_noticed(Etcd::start(1), |etcd| etcd.recreate("another")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_lost_its_data_and_kept_its_id_is_refused_and_all_its_locks_are_lost() {
    check_noticed(Etcd::start(1), |etcd| etcd.recreate(Etcd::DEFAULT_CLUSTER_TOKEN)).await;
}

async fn check_restore_noticed(token: &'static str) {
    let etcd = Etcd::start(1);
    let folder = tempfile::tempdir().unwrap();
    let backup = folder.path().join("backup");
    // The realm is in the backup, and the sessions that come later are not.
    locks(etcd.endpoints(), secs(30)).await.lock("often").acquire().await.unwrap().release().await.unwrap();
    etcd.back_up(&backup);
    check_noticed(etcd, move |etcd| etcd.restore(&backup, token)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_restored_with_another_id_is_refused_and_all_its_locks_are_lost() {
    check_restore_noticed("another").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_was_restored_with_its_own_id_is_refused_and_all_its_locks_are_lost() {
    check_restore_noticed(Etcd::DEFAULT_CLUSTER_TOKEN).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn data_that_are_new_have_a_realm_of_their_own_though_the_cluster_has_its_old_id() {
    let mut etcd = Etcd::start(1);
    let before = store(etcd.endpoints()).await.realm();
    assert_eq!(store(etcd.endpoints()).await.realm(), before);
    etcd.kill_all();
    etcd.start_all();
    assert_eq!(store(etcd.endpoints()).await.realm(), before, "a restart begins no realm");
    etcd.recreate(Etcd::DEFAULT_CLUSTER_TOKEN);
    assert_ne!(store(etcd.endpoints()).await.realm(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_realm_is_begun_by_an_operator_and_ends_the_handles_of_the_old_one() {
    let etcd = Etcd::start(1);
    let (old, operator) = (store(etcd.endpoints()).await, store(etcd.endpoints()).await);
    let locks = locks_on(&old, secs(60));
    let guard = locks.lock("job").acquire().await.unwrap();
    let new = operator.new_realm().await.unwrap();
    assert_ne!(new, old.realm());
    assert_eq!(operator.realm(), new);
    let error = locks.lock("other").try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(!guard.is_valid());
    assert_eq!(store(etcd.endpoints()).await.realm(), new);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_only_renews_notices_that_its_proxy_turned_to_another_cluster() {
    let (one, other) = (Etcd::start(1), Etcd::start(1));
    let locks = locks(one.proxy_endpoints(), secs(12)).await;
    let guard = locks.lock("job").acquire().await.unwrap();
    let port = other.endpoints()[0].rsplit_once(':').unwrap().1.parse().unwrap();
    one.member(0).proxy().retarget(port);
    assert_eq!(within_bound("the loss", guard.lost()).await, LossReason::SessionEnded, "it was believed in to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_notices_that_its_proxy_turned_to_another_cluster() {
    let (one, other) = (Etcd::start(1), Etcd::start(1));
    let (ours, theirs) = (locks(one.proxy_endpoints(), secs(600)).await, locks(one.endpoints(), secs(600)).await);
    let holder = theirs.lock("job").acquire().await.unwrap();
    let waiter = start_waiting(&ours, "job").await;
    let port = other.endpoints()[0].rsplit_once(':').unwrap().1.parse().unwrap();
    one.member(0).proxy().retarget(port);
    let error = within_bound("its end", waiter).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    holder.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_of_two_clusters_are_refused_when_the_store_is_opened() {
    let (one, other) = (Etcd::start(1), Etcd::start(1));
    let endpoints = [one.endpoints(), other.endpoints()].concat();
    let mut config = EtcdConfig::new(&endpoints);
    config.response_timeout = secs(10);
    let error = EtcdStore::connect(config, &Clock::system()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error:?}");
    assert!(endpoints.iter().all(|endpoint| error.to_string().contains(endpoint)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_of_another_cluster_is_found_out_when_it_first_answers() {
    let (mut one, mut other) = (Etcd::start(1), Etcd::start(1));
    other.kill_all();
    let store = store([one.endpoints(), other.endpoints()].concat()).await;
    let claim = Claim::new(LockName::new("job").unwrap(), secs(60));
    let Attempt::Granted(lease) = store.request(&claim).await.unwrap() else { panic!("the lock was held") };
    other.start_all();
    one.kill_all();
    let error = store.inspect(claim.name(), Space::Locks).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert!(!lease.session.unwrap().is_valid());
    let until = Duration::from_secs(60);
    assert!(tokio::time::timeout(until, store.request(&claim)).await.unwrap().is_err());
}
