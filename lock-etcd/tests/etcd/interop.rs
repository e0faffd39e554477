//! `etcdctl lock` and this store exclude each other, in one queue, and tokens rise over both.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use lock_testkit::{Etcd, Process, until};

use crate::fixture::{keys, locks, secs, shared_server, unique_name};

/// `etcdctl lock NAME`, which runs a shell command while it holds the lock.
pub(crate) fn etcdctl(etcd: &Etcd, name: &str, script: &str, file: &Path) -> Command {
    let mut command = etcd.etcdctl();
    command.args(["lock", "--", name, "sh", "-c", script]).arg(file).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// The numbers in a file, one a line.
pub(crate) fn numbers(file: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Adds a number to a file.
pub(crate) fn append(file: &Path, number: u64) {
    let mut numbers = std::fs::File::options().create(true).append(true).open(file).unwrap();
    writeln!(numbers, "{number}").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_waits_for_ours_and_ours_for_etcdctl_in_the_order_of_their_coming() {
    let (etcd, name) = (shared_server(), unique_name("fifo"));
    let folder = tempfile::tempdir().unwrap();
    let (revision, go) = (folder.path().join("revision"), folder.path().join("go"));
    let locks = locks(etcd.endpoints(), secs(60)).await;
    let first = locks.lock(&name).acquire().await.unwrap();

    let script = format!("echo $ETCD_LOCK_REV > $0; while [ ! -e {} ]; do sleep 0.01; done", go.display());
    let mut second = Process::start(&mut etcdctl(etcd, name.as_str(), &script, &revision));
    until("etcdctl's place", || (keys(etcd, name.as_str()).len() == 2).then_some(()));
    let third = tokio::spawn(locks.lock(&name).acquire());
    until("our place", || (keys(etcd, name.as_str()).len() == 3).then_some(()));
    assert!(numbers(&revision).is_empty(), "etcdctl holds what we hold");

    let first_token = first.token_if_any().unwrap().number();
    first.release().await.unwrap();
    let second_token = until("etcdctl's turn", || numbers(&revision).first().copied());
    assert!(!third.is_finished(), "we hold what etcdctl holds");
    let by = locks.inspect(&name).await.unwrap().pop().unwrap();
    assert_eq!(by.holder, None, "another program holds it: {by:?}");
    assert!(locks.lock(&name).try_acquire().await.unwrap().is_none());

    std::fs::write(&go, "").unwrap();
    let third = third.await.unwrap().unwrap();
    let third_token = third.token_if_any().unwrap().number();
    assert!(first_token < second_token && second_token < third_token);
    third.release().await.unwrap();
    second.wait();
    assert!(keys(etcd, name.as_str()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_another_program_can_be_broken_and_no_other() {
    let (etcd, name) = (shared_server(), unique_name("foreign"));
    let folder = tempfile::tempdir().unwrap();
    let go = folder.path().join("go");
    let script = "while [ ! -e $0 ]; do sleep 0.01; done";
    let mut theirs = Process::start(&mut etcdctl(etcd, name.as_str(), script, &go));
    until("etcdctl's lock", || (keys(etcd, name.as_str()).len() == 1).then_some(()));
    let locks = locks(etcd.endpoints(), secs(60)).await;
    let seen = locks.inspect(&name).await.unwrap().pop().unwrap();
    let broken = locks.break_lock(&name, &seen, lock_core::BreakMode::Now).await.unwrap().unwrap();
    let guard = locks.lock(&name).acquire().await.unwrap();
    assert!(guard.token_if_any() > broken.token.as_ref());
    assert!(
        locks.break_lock(&name, &seen, lock_core::BreakMode::Now).await.unwrap().is_none(),
        "it is another's by now"
    );
    guard.release().await.unwrap();
    std::fs::write(&go, "").unwrap();
    theirs.wait();
}
