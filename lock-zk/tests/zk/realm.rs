//! Realms: an open store gives no tokens of another ensemble, or of older data.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, Clock, Error, ErrorKind, LockGuard, LockName, LockStore, Locks, LossReason, Space};
use lock_testkit::ZooKeeper;
use lock_zk::ZkStore;

use crate::fixture::{config, locks_on, secs, store, unique_name, within_bound};

/// Acquires, and retries as long as the error is retryable.
async fn final_answer(locks: &Locks, name: &str) -> Result<LockGuard, Error> {
    let asking = async {
        loop {
            match locks.lock(name).acquire().await {
                Err(error) if error.is_retryable() => {}
                answer => return answer,
            }
        }
    };
    within_bound("an answer", asking).await
}

fn assert_refused(answer: Result<LockGuard, Error>, why: &str) {
    let error = answer.expect_err("a lock of other data was granted");
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

fn copy_directory(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// A store that was used, and a held lock in it.
async fn used_store(zookeeper: &ZooKeeper) -> (Arc<ZkStore>, Locks, LockGuard) {
    let store = store(zookeeper.endpoints()).await;
    let locks = locks_on(&store, secs(2));
    for _ in 0..10 {
        locks.lock("job").acquire().await.unwrap().release().await.unwrap();
    }
    let held = locks.lock(unique_name("held")).acquire().await.unwrap();
    (store, locks, held)
}

/// Restarts the server without any data, at the same address.
fn restart_empty(zookeeper: &mut ZooKeeper) {
    let server = zookeeper.server_mut(0);
    server.kill();
    std::fs::remove_dir_all(server.data()).unwrap();
    server.start();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_is_refused_by_an_ensemble_that_was_emptied() {
    let mut zookeeper = ZooKeeper::start(1);
    let (store, locks, held) = used_store(&zookeeper).await;
    restart_empty(&mut zookeeper);
    assert!(matches!(within_bound("the loss", held.lost()).await, LossReason::Expired | LossReason::SessionEnded));
    assert_refused(final_answer(&locks, "job").await, "realm");
    // A read is refused too, and nothing is made there.
    let seen = within_bound("a look", async {
        loop {
            match store.inspect(&LockName::new("job").unwrap(), Space::Locks).await {
                Err(error) if error.is_retryable() => {}
                seen => return seen,
            }
        }
    });
    assert_eq!(seen.await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    let client = crate::fixture::client(&zookeeper).await;
    assert!(client.check_stat("/app").await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_is_refused_by_another_ensemble_at_the_same_address() {
    let mut zookeeper = ZooKeeper::start(1);
    let (old, locks, _held) = used_store(&zookeeper).await;
    restart_empty(&mut zookeeper);
    let new = store(zookeeper.endpoints()).await;
    assert_ne!(new.realm(), old.realm());
    let theirs = locks_on(&new, secs(60)).lock("theirs").acquire().await.unwrap();
    assert_refused(final_answer(&locks, "job").await, new.realm().as_str());
    assert_refused(final_answer(&locks, "theirs").await, "realm");
    assert!(old.fence_condition(&LockName::new("theirs").unwrap(), theirs.holder()).await.is_err());
    // Opened anew, the store is of that ensemble.
    let anew = locks_on(&store(zookeeper.endpoints()).await, secs(2));
    let guard = anew.lock("job").acquire().await.unwrap();
    assert_eq!(guard.token_if_any().unwrap().realm(), &new.realm());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_is_refused_by_data_that_are_older_than_what_it_saw() {
    let mut zookeeper = ZooKeeper::start(1);
    let backup = tempfile::tempdir().unwrap();
    // The backup has the realm, and no session.
    drop(store(zookeeper.endpoints()).await);
    zookeeper.server_mut(0).kill();
    copy_directory(&zookeeper.server(0).data(), &backup.path().join("version-2"));
    zookeeper.server_mut(0).start();
    let (store, locks, held) = used_store(&zookeeper).await;
    let token = held.token_if_any().unwrap().clone();
    zookeeper.server_mut(0).kill();
    std::fs::remove_dir_all(zookeeper.server(0).data()).unwrap();
    copy_directory(&backup.path().join("version-2"), &zookeeper.server(0).data());
    zookeeper.server_mut(0).start();
    let again = self::store(zookeeper.endpoints()).await;
    assert_eq!(again.realm(), store.realm(), "the realm was restored with the rest");
    match final_answer(&locks, "job").await {
        Ok(guard) => panic!("{} was granted after {token}", guard.token_if_any().unwrap()),
        refusal => assert_refused(refusal, "older"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_of_another_ensemble_among_those_that_are_named_is_refused() {
    let (one, other) = (ZooKeeper::start(1), ZooKeeper::start(1));
    let (ours, theirs) = (one.endpoints().remove(0), other.endpoints().remove(0));
    // Both have a realm.
    drop((store(one.endpoints()).await, store(other.endpoints()).await));
    for servers in [vec![ours.clone(), theirs.clone()], vec![theirs.clone(), ours.clone()]] {
        let error = ZkStore::connect(config(servers), &Clock::system()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(&ours) && error.to_string().contains(&theirs), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_handle_that_begins_a_realm_goes_on_in_it_and_others_are_opened_anew() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, locks, held) = used_store(&zookeeper).await;
    let (theirs, other_locks, other_held) = used_store(&zookeeper).await;
    drop((held, other_held));
    let before = theirs.realm();
    let new = ours.new_realm().await.unwrap();
    assert_ne!(new, before);
    let name = LockName::new("after").unwrap();
    for ttl in [2, 7] {
        let claim = Claim::new(name.clone(), secs(ttl));
        let lock_core::Attempt::Granted(lease) = ours.request(&claim).await.unwrap() else { panic!("not granted") };
        assert_eq!(lease.token.unwrap().realm(), &new);
        ours.release(&claim, Duration::ZERO).await.unwrap();
    }
    drop(locks);
    // A session that the other store opens finds another realm.
    let refusal = other_locks.lock(&name).ttl(secs(9)).acquire().await;
    assert_refused(refusal, new.as_str());
}
