//! The diagnosis of a cluster.

use lock_core::{Clock, Finding, LockStore, Locks, Severity};
use lock_etcd::{EtcdConfig, EtcdStore};
use lock_testkit::Etcd;

use crate::fixture::{shared_server, store, within_bound};

fn with_code<'a>(findings: &'a [Finding], code: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.code == code).collect()
}

/// Asks until the cluster as a whole answers: those that are left elect another leader first.
async fn diagnosis(store: &EtcdStore) -> Vec<Finding> {
    let diagnosed = async {
        loop {
            let findings = store.diagnose().await.unwrap();
            if findings.iter().all(|finding| finding.severity < Severity::Error) {
                return findings;
            }
        }
    };
    within_bound("a diagnosis", diagnosed).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diagnosis_names_old_servers_members_and_the_shortest_ttl() {
    let mut etcd = Etcd::start(3);
    let store = store(etcd.endpoints()).await;
    assert_eq!(store.realm().as_str().split_once(':').unwrap().0, "etcd");
    etcd.member_mut(2).kill();
    let findings = diagnosis(&store).await;
    let endpoints = with_code(&findings, "endpoint");
    assert_eq!(endpoints.len(), 3);
    // One of the two that are left leads.
    assert_eq!(endpoints.iter().filter(|finding| finding.text.contains("is the leader")).count(), 1, "{findings:?}");
    assert_eq!(endpoints[2].severity, Severity::Warning);
    assert!(endpoints[2].text.contains("no status"), "{}", endpoints[2]);
    let versions = with_code(&findings, "version");
    assert_eq!(versions.len(), 2);
    let is_old = versions[0].text.trim_start_matches('"').starts_with("3.4.");
    assert_eq!(versions[0].severity > Severity::Info, is_old, "{}", versions[0]);
    assert_eq!(with_code(&findings, "quorum")[0].text, "3 members vote, and 2 must answer");
    assert_eq!(with_code(&findings, "alarms")[0].severity, Severity::Info);
    assert!(with_code(&findings, "shortest-ttl")[0].text.starts_with("1s"), "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_a_quorum_is_an_error_and_its_members_are_still_looked_at() {
    let mut etcd = Etcd::start(3);
    let store = store(etcd.endpoints()).await;
    for member in [1, 2] {
        etcd.member_mut(member).kill();
    }
    let findings = Locks::builder_of(store).build().diagnose().await.unwrap();
    assert_eq!(with_code(&findings, "shortest-ttl")[0].severity, Severity::Error, "{findings:?}");
    assert_eq!(with_code(&findings, "endpoint").len(), 3, "{findings:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_realm_whose_mark_is_gone_is_an_error() {
    let etcd = shared_server();
    let store = store(etcd.endpoints()).await;
    let mut config = EtcdConfig::new(etcd.endpoints());
    config.prefix = "moved".to_owned();
    let other = EtcdStore::connect(config, &Clock::system()).await.unwrap();
    assert!(etcd.etcdctl().args(["del", "--prefix", "moved"]).status().unwrap().success());
    assert_eq!(with_code(&other.diagnose().await.unwrap(), "realm")[0].severity, Severity::Error);
    assert_eq!(with_code(&store.diagnose().await.unwrap(), "realm")[0].severity, Severity::Info);
}
