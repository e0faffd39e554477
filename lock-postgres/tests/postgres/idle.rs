//! Idle connections.

use std::time::Duration;

use lock_core::{Attempt, Claim, LockStore, ReleaseOutcome, Space};
use lock_testkit::PostgresServer;

use crate::fixture::{LONG, Table, grant, init, name, open, until};

/// Terminates the connections of a table, as an operator or a time limit does.
fn end_connections(table: &Table) {
    let of = format!("application_name = 'leasehold {}'", table.name);
    table.server.psql(&format!("select pg_terminate_backend(pid) from pg_stat_activity where {of}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_the_server_ended_while_nobody_used_it_fails_no_step() {
    let table = Table::new().await;
    let store = table.open().await;
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&*store, &claim).await;
    end_connections(&table);
    let Attempt::Granted(again) = store.request(&claim).await.unwrap() else { panic!("it is the own") };
    assert_eq!(again.token, Some(token));
    end_connections(&table);
    assert_eq!(store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap().holder, Some(claim.holder()));
    end_connections(&table);
    assert_eq!(
        store.release(&claim, Duration::ZERO).await.unwrap(),
        ReleaseOutcome::Held,
        "it is known what became of it"
    );
    end_connections(&table);
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashed_while_nobody_asked_fails_no_step() {
    let mut server = PostgresServer::start(&[]);
    init(&server.url()).await.unwrap();
    let store = open(&server.url()).await;
    let claim = Claim::new(name("job"), LONG);
    grant(&*store, &claim).await;
    let since = std::time::Instant::now();
    server.restart();
    // After a shorter time, a connection is used without a ping.
    until("a while without use", || since.elapsed() > Duration::from_millis(1_100)).await;
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}
