//! Waiters, and their cost.

use std::time::Duration;

use lock_core::{Claim, LockStore};
use lock_testkit::Proxy;

use crate::fixture::{LONG, Table, grant, locks, name, open, until};

/// Number of connections of the table that match.
fn count_connections(table: &Table, which: &str) -> usize {
    let of = format!("application_name = 'leasehold {}'", table.name);
    table.server.psql(&format!("select count(*) from pg_stat_activity where {of} and {which}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_waiters_share_one_connection_and_leave_nothing_behind() {
    let table = Table::new().await;
    let holder = locks(&table.open().await).lock("job").acquire().await.unwrap();
    let others = locks(&open(&table.url("&connections=2")).await);
    let elsewhere = count_connections(&table, "true");
    let waiters: Vec<_> = (0..100).map(|_| tokio::spawn(others.lock("job").acquire())).collect();
    until("the wish to be told", || table.server.psql(&format!("select waited_for from {}", table.name)) == "t").await;
    let waiting = count_connections(&table, "query ilike 'listen%'");
    assert_eq!(waiting, 1, "one connection listens");
    // Connections for steps come and go; the holder's was there before.
    assert!(count_connections(&table, "true") <= elsewhere + 2, "{} connections", count_connections(&table, "true"));
    assert_eq!(count_connections(&table, "wait_event_type = 'Lock'"), 0, "nobody waits on the server");
    waiters.iter().for_each(|waiter| waiter.abort());
    for waiter in waiters {
        assert!(waiter.await.is_err_and(|error| error.is_cancelled()));
    }
    others.close().await;
    until("no statement under way", || count_connections(&table, "state = 'active'") == 0).await;
    assert_eq!(count_connections(&table, "wait_event_type = 'Lock'"), 0);
    holder.release().await.unwrap();
    drop(others);
    until("the end of their connections", || count_connections(&table, "query ilike 'listen%'") == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_of_another_process_is_told_of_a_release() {
    let table = Table::new().await;
    let (here, there) = (locks(&table.open().await), locks(&table.open().await));
    let mut guard = here.lock("job").acquire().await.unwrap();
    for _ in 0..10 {
        let waiter = tokio::spawn(there.lock("job").acquire());
        until("a waiter", || table.server.psql(&format!("select waited_for from {}", table.name)) == "t").await;
        // The lease lasts for far longer than the test.
        guard.release().await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
        guard = here.lock("job").acquire().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_whose_connection_broke_is_told_all_the_same() {
    let table = Table::new().await;
    let (here, there) = (locks(&table.open().await), locks(&table.open().await));
    let guard = here.lock("job").acquire().await.unwrap();
    let waiter = tokio::spawn(there.lock("job").acquire());
    for _ in 0..3 {
        until("a connection that listens", || count_connections(&table, "query ilike 'listen%'") == 1).await;
        let end = "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%' and";
        table.server.psql(&format!("{end} application_name = 'leasehold {}'", table.name));
    }
    until("a connection that listens", || count_connections(&table, "query ilike 'listen%'") == 1).await;
    guard.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_gives_back_is_waited_out() {
    let table = Table::new().await;
    let store = table.open().await;
    let token = grant(&*store, &Claim::new(name("job"), Duration::from_millis(700))).await;
    let next = locks(&table.open().await).lock("job").acquire().await.unwrap();
    assert!(*next.token_if_any().unwrap() > token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_told_where_nobody_waits() {
    let table = Table::new().await;
    let store = table.open().await;
    let claim = Claim::new(name("job"), LONG);
    grant(&*store, &claim).await;
    assert_eq!(table.server.psql(&format!("select waited_for from {}", table.name)), "f");
    store.release(&claim, Duration::ZERO).await.unwrap();
    assert_eq!(count_connections(&table, "query ilike 'listen%'"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_died_without_a_word_is_noticed_while_somebody_waits() {
    let table = Table::new().await;
    let proxy = Proxy::to(table.server.port());
    let own = format!(":{}/", table.server.port());
    let url = table.url("&connect_timeout=500ms&response_timeout=500ms");
    let far = locks(&open(&url.replace(&own, &format!(":{}/", proxy.port()))).await);
    let holder = locks(&table.open().await).lock("job").acquire().await.unwrap();
    let waiter = tokio::spawn(far.lock("job").acquire());
    let waits = format!("select waited_for from {}", table.name);
    until("the wish to be told", || table.server.psql(&waits) == "t").await;
    proxy.drop_traffic();
    holder.release().await.unwrap();
    // The lease would have lasted for ten minutes: the waiter notices that its connection is dead,
    // and requests again.
    let next = tokio::time::timeout(lock_testkit::WAIT_TIMEOUT, waiter).await.expect("in time").unwrap().unwrap();
    next.release().await.unwrap();
}
