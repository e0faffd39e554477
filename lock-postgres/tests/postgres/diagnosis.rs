//! Faults that come after a store was opened, and that its diagnosis finds.

use lock_core::{LockStore, Severity};
use lock_postgres::{AdvisoryStore, PostgresStore};
use lock_testkit::PostgresServer;

use crate::fixture::{Table, codes, init, open, open_any, shared_server, warnings};

/// The codes of the findings that are worse than a plain fact, with their severities.
async fn found(store: &dyn LockStore) -> Vec<(Severity, &'static str)> {
    warnings(store).await.iter().map(|finding| (finding.severity, finding.code)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_as_it_should_be_has_a_finding_for_each_fact_in_both_modes() {
    let table = Table::new().await;
    let advisory = format!("{}?table=diagnosed.lease&mode=advisory", shared_server().url());
    init(&advisory).await.unwrap();
    assert_eq!(PostgresStore::FINDING_CODES, AdvisoryStore::FINDING_CODES);
    for url in [table.url(""), advisory] {
        let findings = open_any(&url).await.unwrap().diagnose().await.unwrap();
        assert_eq!(codes(&findings), PostgresStore::FINDING_CODES);
        assert!(findings.iter().all(|finding| finding.severity == Severity::Info), "{findings:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_became_unlogged_is_an_error_of_the_guarantees() {
    let table = Table::new().await;
    let store = table.open().await;
    table.server.psql(&format!("alter table {} set unlogged", table.name));
    assert_eq!(found(&*store).await, [(Severity::Warning, "table"), (Severity::Error, "guarantees")]);
    assert_eq!(found(&*table.open().await).await, [(Severity::Warning, "table")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_gone_is_an_error() {
    let table = Table::new().await;
    let store = table.open().await;
    table.server.psql(&format!("drop table {}", table.name));
    let found = found(&*store).await;
    for code in ["table", "guarantees", "realm"] {
        assert!(found.contains(&(Severity::Error, code)), "{code}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_realm_that_this_process_does_not_know_yet_is_an_error() {
    let table = Table::new().await;
    let (store, other) = (table.open().await, table.open().await);
    other.new_realm().await.unwrap();
    assert_eq!(found(&*store).await, [(Severity::Error, "realm")]);
    assert_eq!(found(&*other).await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_sync_is_a_warning() {
    let server = PostgresServer::start(&["fsync=off"]);
    init(&server.url()).await.unwrap();
    assert_eq!(found(&*open(&server.url()).await).await, [(Severity::Warning, "fsync")]);
}
