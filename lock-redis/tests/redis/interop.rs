//! Other programs at the same key.

use std::process::Command;
use std::time::Duration;

use lock_core::{BreakMode, Claim, LockStore, Space};

use crate::fixture::{LONG, grant, is_held, locks, name, open, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plain_set_excludes_and_is_excluded() {
    let server = server();
    let store = open(&server.url()).await;
    assert_eq!(server.cli(&["SET", "lock:job", "other", "NX", "PX", "600000"]), "OK");
    assert!(is_held(&store, "job").await);
    let by = store.inspect(&name("job"), Space::Locks).await.unwrap().pop().unwrap();
    assert_eq!((by.holder, by.token.is_none()), (None, true), "nothing is known of another program");
    assert!(by.remaining.unwrap() > Duration::from_secs(500));
    let error = store.break_lock(&name("job"), &by, BreakMode::Now).await.unwrap_err();
    assert!(error.to_string().contains("lock:job") && !error.may_have_taken_effect(), "{error}");
    assert_eq!(server.cli(&["GET", "lock:job"]), "other");
    server.cli(&["DEL", "lock:job"]);
    let guard = locks(&store).lock("job").acquire().await.unwrap();
    assert_eq!(server.cli(&["SET", "lock:job", "other", "NX", "PX", "600000"]), "");
    guard.release().await.unwrap();
    assert_eq!(server.cli(&["SET", "lock:job", "other", "NX", "PX", "600000"]), "OK");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_notices_that_another_program_is_done() {
    let server = server();
    let store = open(&server.url()).await;
    server.cli(&["SET", "lock:job", "other", "NX", "PX", "600000"]);
    let waiter = tokio::spawn(locks(&store).lock("job").wait(LONG).acquire());
    lock_testkit::until("its subscription", || server.cli(&["PUBSUB", "CHANNELS"]).contains("lock:job").then_some(()));
    server.cli(&["DEL", "lock:job"]);
    let served = tokio::time::timeout(lock_testkit::WAIT_TIMEOUT, waiter).await.expect("it looks again by itself");
    served.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_or_without_expiry_counts_as_held() {
    let server = server();
    let store = open(&server.url()).await;
    server.cli(&["RPUSH", "lock:list", "x"]);
    server.cli(&["SET", "lock:forever", "x"]);
    let counter = || server.cli(&["--scan", "--pattern", "*token*"]);
    for text in ["list", "forever"] {
        assert!(is_held(&store, text).await, "{text}");
        assert_eq!(store.inspect(&name(text), Space::Locks).await.unwrap().pop().unwrap().remaining, None);
    }
    assert_eq!(counter(), "", "a lock that is held costs no token");
    let listed: Vec<_> = store.list(Space::Locks, None, 10).await.unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(listed, [name("forever"), name("list")]);
    assert_eq!(server.cli(&["LRANGE", "lock:list", "0", "-1"]), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_has_no_end_is_not_revoked_without_one() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("job"), LONG)).await;
    assert_eq!(server.cli(&["PERSIST", "lock:job"]), "1");
    let value = server.cli(&["GET", "lock:job"]);
    let by = store.inspect(&name("job"), Space::Locks).await.unwrap().pop().unwrap();
    let error = store.break_lock(&name("job"), &by, BreakMode::Revoke).await.unwrap_err();
    assert!(error.to_string().contains("no expiry") && !error.may_have_taken_effect(), "{error}");
    assert_eq!(server.cli(&["GET", "lock:job"]), value, "nothing was done");
    let broken = store.break_lock(&name("job"), &by, BreakMode::Now).await.unwrap().unwrap();
    assert_eq!((broken.free_in, broken.evicted.remaining), (Duration::ZERO, None));
    assert!(!is_held(&store, "job").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_redis_py_excludes_and_is_excluded() {
    let server = server();
    let store = open(&server.url()).await;
    // The system's own, for which the package was installed.
    let python = |text: &str| {
        let begin =
            format!("import redis\nr = redis.Redis(port={})\nl = r.lock('lock:job', timeout=600)\n", server.port());
        let said = Command::new("/usr/bin/python3").arg("-c").arg(begin + text).output().unwrap();
        let error = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.status.success(), "./test.sh installs what the tests need: {error}");
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    let held = Claim::new(name("job"), LONG);
    grant(&store, &held).await;
    assert_eq!(python("print(l.acquire(blocking=False))"), "False");
    store.release(&held, Duration::ZERO).await.unwrap();
    assert_eq!(python("print(l.acquire(blocking=False))"), "True");
    assert!(is_held(&store, "job").await);
    assert_eq!(python("l.local.token = r.get('lock:job'); l.release()"), "");
    assert!(!is_held(&store, "job").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_another_prefix_is_touched_or_shown() {
    let server = server();
    let (one, two) = (open(&server.url()).await, open(&format!("{}?prefix=lo*:", server.url())).await);
    grant(&one, &Claim::new(name("job"), LONG)).await;
    assert!(!is_held(&two, "job").await);
    assert_eq!(two.list(Space::Locks, None, 10).await.unwrap().len(), 1);
    assert_ne!(one.realm(), two.realm());
}
