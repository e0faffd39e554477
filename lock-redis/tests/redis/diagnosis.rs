//! Faults that come after a store was opened, and that its diagnosis finds.

use lock_core::{LockStore, Severity};
use lock_redis::{RedisConfig, RedisStore};
use lock_testkit::RedisCluster;

use crate::fixture::{open, server, warnings};

/// The codes of the findings that are worse than a plain fact, with their severities.
async fn found(store: &RedisStore) -> Vec<(Severity, &'static str)> {
    warnings(store).await.iter().map(|finding| (finding.severity, finding.code)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_were_weakened_after_the_store_was_opened_are_an_error() {
    let server = server();
    let store = open(&server.url()).await;
    assert_eq!(found(&store).await, []);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    assert_eq!(found(&store).await, [(Severity::Warning, "maxmemory-policy"), (Severity::Error, "guarantees")]);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    server.cli(&["CONFIG", "SET", "appendfsync", "everysec"]);
    assert_eq!(found(&store).await, [(Severity::Warning, "persistence"), (Severity::Error, "guarantees")]);
    // A store that is opened now promises no more than this.
    assert_eq!(found(&*open(&server.url()).await).await, [(Severity::Warning, "persistence")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_were_lost_after_the_store_was_opened_are_an_error() {
    let server = server();
    let store = open(&server.url()).await;
    server.cli(&["FLUSHALL"]);
    assert_eq!(found(&store).await, [(Severity::Error, "realm")]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_answer_at_all_is_an_error_of_the_question() {
    let server = server();
    let url = server.url() + "?connect_timeout=1s&response_timeout=1s";
    let store = RedisStore::connect(RedisConfig::from_url(&url.parse().unwrap()).unwrap()).await.unwrap();
    drop(server);
    assert!(store.diagnose().await.unwrap_err().is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_of_a_cluster_has_findings_of_its_own() {
    let cluster = RedisCluster::start(&[]);
    let findings = open(&cluster.url()).await.diagnose().await.unwrap();
    let servers = findings.iter().filter(|finding| finding.code == "server");
    assert_eq!(servers.clone().count(), 3, "{findings:?}");
    assert!(servers.clone().all(|finding| finding.severity == Severity::Info && finding.subject.is_some()));
}
