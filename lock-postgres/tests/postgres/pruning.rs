//! Pruning: removing the rows of names that nobody locks any more.

use std::sync::Mutex;
use std::time::Duration;

use lock_core::Claim;
use tracing_subscriber::fmt::MakeWriter;

use crate::fixture::{LONG, Table, grant, name, open, try_open, until};

const WEEK: Duration = Duration::from_secs(7 * 86_400);

/// Inserts this many rows of names that nobody has locked for eight days.
fn insert_old_rows(table: &Table, rows: usize) {
    table.server.psql(&format!(
        "insert into {} (name, token, since, expires_at)
         select 'old ' || n, n, now(), now() - interval '8 days' from generate_series(1, {rows}) n",
        table.name
    ));
}

fn count_old_rows(table: &Table) -> usize {
    table.server.psql(&format!("select count(*) from {} where name like 'old %'", table.name)).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_old_rows_are_removed_in_steps_and_no_token_comes_again() {
    const MANY: usize = 20_000;
    let table = Table::new().await;
    let store = table.open().await;
    insert_old_rows(&table, MANY);
    let held = Claim::new(name("old and held"), LONG);
    let token = grant(&*store, &held).await;
    assert_eq!(store.prune(WEEK).await.unwrap(), MANY as u64);
    assert_eq!(count_old_rows(&table), 1, "what is held stays");
    assert_eq!(grant(&*store, &held).await, token);
    let next = grant(&*store, &Claim::new(name("old 3"), LONG)).await;
    assert!(next.number() > MANY as u64, "{next} was given before");
    assert_eq!(store.prune(WEEK).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_live_for_a_few_locks_remove_old_rows_too() {
    let table = Table::new().await;
    insert_old_rows(&table, 2_500);
    // Each new name triggers a step with a chance of one in a hundred.
    for process in 0..20 {
        let store = table.open().await;
        let locks = crate::fixture::locks(&store);
        let mut guards = tokio::task::JoinSet::new();
        (0..100).for_each(|number| drop(guards.spawn(locks.lock(format!("{process} {number}")).acquire())));
        drop(guards.join_all().await);
        locks.close().await;
    }
    until("the end of old rows", || count_old_rows(&table) < 2_500).await;
    assert!(grant(&*table.open().await, &Claim::new(name("old 1"), LONG)).await.number() > 0);
}

/// The log of all tests of this program.
struct Log;

static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LOG.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Log;

    fn make_writer(&self) -> Log {
        Log
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_old_rows_cannot_be_removed_is_said_once() {
    tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_ansi(false).with_writer(Log).init();
    let table = Table::new().await;
    insert_old_rows(&table, 10);
    let (schema, role) = (table.name.split('.').next().unwrap(), table.name.replace('.', "_"));
    table.server.psql(&format!(
        "create role {role} login; grant usage on schema {schema} to {role};
         grant select, insert, update on {} to {role}; grant select, update on {}_meta to {role}",
        table.name, table.name
    ));
    let url = table.url("").replace("postgres@", &format!("{role}@"));
    let locks = crate::fixture::locks(&try_open(&url).await.unwrap());
    let mut guards = tokio::task::JoinSet::new();
    (0..2_000).for_each(|number| drop(guards.spawn(locks.lock(format!("job {number}")).acquire())));
    assert!(guards.join_all().await.iter().all(Result::is_ok), "nobody else notices");
    let warnings = || String::from_utf8_lossy(&LOG.lock().unwrap()).matches("removing old rows failed").count();
    until("a warning", || warnings() > 0).await;
    assert_eq!(warnings(), 1);
    assert_eq!(count_old_rows(&table), 10);
    drop(open(&table.url("")).await);
}
