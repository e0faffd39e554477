//! Fenced writes inside etcd.

use std::io::Write as _;
use std::process::Stdio;

use lock_core::BreakMode;
use lock_etcd::FenceCondition;
use lock_testkit::Etcd;

use crate::fixture::{locks_on, secs, shared_server, store, unique_name};

/// Writes by another client under this condition; true if it was committed.
fn write(etcd: &Etcd, condition: &FenceCondition, key: &str) -> bool {
    let lock = String::from_utf8(condition.key.clone()).unwrap();
    let mut txn = etcd.etcdctl();
    let mut txn = txn.args(["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (created, modified) = (condition.create_revision, condition.mod_revision);
    let text = format!("create(\"{lock}\") = \"{created}\"\nmod(\"{lock}\") = \"{modified}\"\n\nput {key} x\n\n\n");
    txn.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = String::from_utf8(txn.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("SUCCESS") || output.contains("FAILURE"), "{output}");
    output.contains("SUCCESS")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_under_a_proof_commits_only_while_its_holder_holds_the_lock() {
    let (etcd, name) = (shared_server(), unique_name("proof"));
    let store = store(etcd.endpoints()).await;
    let locks = locks_on(&store, secs(60));
    let guard = locks.lock(&name).acquire().await.unwrap();
    let condition = store.fence_condition(&name, guard.holder()).await.unwrap().unwrap();
    assert!(write(etcd, &condition, "target"));
    let seen = locks.inspect(&name).await.unwrap().pop().unwrap();
    assert!(store.fence_condition(&name, lock_core::Holder::fresh()).await.unwrap().is_none());
    // Revoked: the key is still there, with its create revision, and blocks the name; its holder is
    // fenced off.
    locks.break_lock(&name, &seen, BreakMode::Revoke).await.unwrap().unwrap();
    assert!(!write(etcd, &condition, "target"));
    assert!(store.fence_condition(&name, guard.holder()).await.unwrap().is_none());
    drop(guard);
    locks.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_holder_cannot_write() {
    let (etcd, name) = (shared_server(), unique_name("proof"));
    let store = store(etcd.endpoints()).await;
    let locks = locks_on(&store, secs(60));
    let guard = locks.lock(&name).acquire().await.unwrap();
    let condition = store.fence_condition(&name, guard.holder()).await.unwrap().unwrap();
    guard.release().await.unwrap();
    assert!(!write(etcd, &condition, "target"));
    let next = locks.lock(&name).acquire().await.unwrap();
    assert!(!write(etcd, &condition, "target"));
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ttl_in_fractions_or_too_short_is_raised_and_the_guard_says_so() {
    let locks = locks_on(&store(shared_server().endpoints()).await, secs(60));
    let ttl = std::time::Duration::from_millis(20_300);
    let guard = locks.lock(unique_name("fraction")).ttl(ttl).acquire().await.unwrap();
    assert_eq!(guard.ttl(), secs(21));
    guard.release().await.unwrap();
}
