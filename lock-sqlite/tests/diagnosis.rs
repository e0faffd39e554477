//! The diagnosis of a lock file.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use std::time::Duration;

use lock_core::{Finding, LockStore, Severity};
use lock_sqlite::SqliteStore;

use crate::fixture::Folder;

fn codes(findings: &[Finding]) -> Vec<&'static str> {
    findings.iter().map(|finding| finding.code).collect()
}

/// The findings that are worse than a plain fact.
async fn found(store: &SqliteStore) -> Vec<(Severity, &'static str)> {
    let findings = store.diagnose().await.unwrap().into_iter();
    findings.filter(|finding| finding.severity > Severity::Info).map(|f| (f.severity, f.code)).collect()
}

#[tokio::test]
async fn a_file_as_it_should_be_has_a_finding_for_each_fact() {
    let folder = Folder::on_disk();
    let store = folder.open().await;
    let findings = store.diagnose().await.unwrap();
    assert_eq!(codes(&findings), SqliteStore::FINDING_CODES);
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
    let text = |code| findings.iter().find(|finding| finding.code == code).unwrap().text.clone();
    assert_eq!(text("users"), "1 stores of this process, and no other process");
    assert_eq!(text("locks"), "0 are held, and the table has 0 rows");
    assert_eq!(text("realm"), store.realm().to_string());
}

#[tokio::test]
async fn a_file_in_memory_is_a_warning() {
    let folder = Folder::in_memory();
    assert!(found(&folder.open().await).await.contains(&(Severity::Warning, "filesystem")));
}

#[tokio::test]
async fn a_writer_that_stops_inside_its_transaction_is_an_error() {
    let folder = Folder::on_disk();
    let mut config = folder.config();
    config.busy_timeout = Duration::from_millis(50);
    let store = SqliteStore::open(config).await.unwrap();
    let writer = folder.writer();
    assert!(found(&store).await.contains(&(Severity::Error, "writable")));
    drop(writer);
    assert!(!codes_of_errors(&store).await.contains(&"writable"));
}

#[tokio::test]
async fn a_file_that_is_removed_while_in_use_is_an_error() {
    let folder = Folder::on_disk();
    let store = folder.open().await;
    std::fs::remove_file(folder.path()).unwrap();
    assert_eq!(found(&store).await, [(Severity::Error, "file")]);
}

async fn codes_of_errors(store: &SqliteStore) -> Vec<&'static str> {
    let found = found(store).await;
    found.into_iter().filter(|(severity, _)| *severity == Severity::Error).map(|(_, code)| code).collect()
}
