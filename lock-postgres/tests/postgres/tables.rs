//! The tables: their creation, and which are refused.

use lock_core::{Claim, ErrorKind, LockStore, Registry};
use lock_postgres::PostgresDriver;

use crate::fixture::{LONG, Table, grant, init, name, open, open_any, shared_server, try_open};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_them_again_or_at_the_same_time_changes_nothing() {
    let table = Table::new().await;
    let store = table.open().await;
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&*store, &claim).await;
    let tasks: Vec<_> = (0..6)
        .map(|_| {
            let url = table.url("");
            tokio::spawn(async move { init(&url).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let again = open(&table.url("")).await;
    assert_eq!(again.realm(), store.realm());
    assert_eq!(grant(&*again, &claim).await, token);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_statements_make_them_by_hand() {
    let server = shared_server();
    let url = format!("{}?table=by_hand.lease", server.url());
    let script = Registry::new().with(PostgresDriver).init_script(&url.parse().unwrap()).unwrap().unwrap();
    server.psql(&script);
    server.psql(&script);
    grant(&*open(&url).await, &Claim::new(name("job"), LONG)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_newer_or_of_the_other_mode_is_refused_with_what_to_do() {
    let table = Table::new().await;
    let missing = try_open(&format!("{}?table=nowhere.lease", table.server.url())).await.err().unwrap();
    let other_mode = open_any(&table.url("&mode=advisory")).await.err().unwrap();
    table.server.psql(&format!("update {}_meta set version = 3", table.name));
    let newer = try_open(&table.url("")).await.err().unwrap();
    let init_newer = init(&table.url("")).await.err().unwrap();
    for (error, says) in [
        (missing, "leasehold init"),
        (other_mode, "for mode=rows"),
        (newer, "newer layout 3"),
        (init_newer, "newer layout 3"),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlogged_table_promises_nothing_that_a_crash_would_break() {
    let table = Table::new().await;
    table.server.psql(&format!("alter table {} set unlogged", table.name));
    let store = table.open().await;
    assert!(store.guarantees().records_survive.is_empty(), "{:?}", store.guarantees());
    let locks = lock_core::Locks::builder_of(store).build();
    assert_eq!(locks.for_correctness().err().unwrap().kind(), ErrorKind::TooWeak);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_the_first_layout_is_brought_up_to_date_and_keeps_what_is_in_it() {
    let table = Table::new().await;
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&*table.open().await, &claim).await;
    let lease = &table.name;
    table.server.psql(&format!(
        "alter table {lease}_meta drop column pruned_to, drop column standby_seen;
         alter table {lease} reset (autovacuum_vacuum_threshold, vacuum_truncate);
         update {lease}_meta set version = 1"
    ));
    let older = try_open(&table.url("")).await.err().unwrap();
    assert!(older.kind() == ErrorKind::InvalidConfig && older.to_string().contains("leasehold init"), "{older}");
    init(&table.url("")).await.unwrap();
    let store = table.open().await;
    assert_eq!(grant(&*store, &claim).await, token);
    assert_eq!(store.prune(LONG).await.unwrap(), 0);
    let settings = format!("select reloptions::text from pg_class where oid = '{lease}'::regclass");
    let settings = table.server.psql(&settings);
    for setting in ["fillfactor=70", "autovacuum_vacuum_threshold=500", "vacuum_truncate=off"] {
        assert!(settings.contains(setting), "{settings}");
    }
}
