//! Rights, and secrets that must not be shown.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use lock_core::{Claim, ErrorKind, LockStore, ReleaseOutcome, Space};
use lock_testkit::PostgresServer;

use crate::fixture::{LONG, Table, grant, init, name, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_the_page_lists_are_enough_and_fewer_are_denied() {
    let table = Table::new().await;
    let schema = table.name.split('.').next().unwrap();
    let (name_of, role) = (&table.name, format!("app_{schema}"));
    table.server.psql(&format!("create role {role} login; grant usage on schema {schema} to {role}"));
    let url = table.url("").replace("postgres@", &format!("{role}@"));
    let denied = try_open(&url).await.err().unwrap();
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
    table.server.psql(&format!(
        "grant select, insert, update, delete on {name_of} to {role}; grant select, update on {name_of}_meta to {role}"
    ));
    let store = try_open(&url).await.unwrap();
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&*store, &claim).await;
    assert!(!store.inspect(&name("job"), Space::Locks).await.unwrap().is_empty());
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    store.prune(LONG).await.unwrap();
    let next = grant(&*table.open().await, &Claim::new(name("job"), LONG)).await;
    assert!(next > token, "another user's tokens are of the same realm, and rise: {token}, then {next}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_denied_and_shown_nowhere() {
    let rules = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(rules.path(), "host all all 127.0.0.1/32 scram-sha-256\n").unwrap();
    // The server is another user.
    std::fs::set_permissions(rules.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    let server = PostgresServer::start(&[&format!("hba_file={}", rules.path().display())]);
    let url = server.url().replace("postgres@", "postgres:hunter2@");
    let error = try_open(&url).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    let texts = format!("{error} {error:?}");
    assert!(!texts.contains("hunter2"), "{texts}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let table = Table::new().await;
    for mode in ["require", "verify-ca", "verify-full"] {
        let error = try_open(&table.url(&format!("&sslmode={mode}"))).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{mode}: {error}");
    }
    try_open(&table.url("&sslmode=prefer")).await.unwrap();
    init(&table.url("&sslmode=disable")).await.unwrap();
}
