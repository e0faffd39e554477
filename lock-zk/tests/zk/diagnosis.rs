//! The diagnosis of an ensemble.

use lock_core::{Clock, Finding, LockStore, Locks, Severity};
use lock_testkit::ZooKeeper;
use lock_zk::{ZkConfig, ZkStore};

use crate::fixture::store;

fn with_code<'a>(findings: &'a [Finding], code: &str) -> Vec<&'a Finding> {
    findings.iter().filter(|finding| finding.code == code).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_diagnosis_tells_servers_versions_quorum_and_limits() {
    let mut zookeeper = ZooKeeper::start(3);
    // Without a configured tick.
    let store = ZkStore::connect(ZkConfig::new(zookeeper.endpoints(), "/app"), &Clock::system()).await.unwrap();
    assert_eq!(store.realm().as_str().split_once(':').unwrap().0, "zk");
    let leader = zookeeper.leader();
    let gone = (leader + 1) % 3;
    let server = zookeeper.endpoints()[leader].clone();
    zookeeper.server_mut(gone).kill();
    let findings = store.diagnose().await.unwrap();
    let servers = with_code(&findings, "server");
    assert_eq!(servers.len(), 3);
    assert_eq!(servers[gone].severity, Severity::Warning, "{findings:?}");
    assert_eq!((servers[leader].severity, servers[leader].subject.as_ref()), (Severity::Info, Some(&server)));
    let state = &servers[leader].text;
    assert!(state.contains("leader") && state.ends_with("connections") && !state.contains("unknown"), "{state}");
    let versions = with_code(&findings, "version");
    assert_eq!(versions.len(), 2);
    assert!(versions[0].text.starts_with("3."), "{findings:?}");
    let text = |code| with_code(&findings, code)[0].text.clone();
    assert_eq!(text("quorum"), "3 servers vote, and 2 must answer");
    assert_eq!(text("tick"), format!("{:?}", ZooKeeper::TICK));
    assert!(text("shortest-ttl").starts_with(&format!("{:?};", ZooKeeper::TICK * 4)), "{findings:?}");
    assert!(text("longest-ttl").starts_with("120s;"), "{findings:?}");
    assert_eq!(with_code(&findings, "access")[0].severity, Severity::Warning, "nobody has logged in");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ensemble_without_a_quorum_is_an_error_and_its_last_server_is_still_looked_at() {
    let mut zookeeper = ZooKeeper::start(3);
    let store = store(zookeeper.endpoints()).await;
    for server in [1, 2] {
        zookeeper.server_mut(server).kill();
    }
    let findings = Locks::builder_of(store).build().diagnose().await.unwrap();
    assert_eq!(with_code(&findings, "quorum")[0].severity, Severity::Error, "{findings:?}");
    let servers: Vec<_> = with_code(&findings, "server").iter().map(|finding| finding.severity).collect();
    assert_eq!(servers[1..], [Severity::Warning, Severity::Warning], "{findings:?}");
}
