//! Advisory locks beside those of other programs.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lock_core::{Attempt, BreakMode, Claim, Locks, LossReason, ReleaseOutcome, Space};
use lock_testkit::{PostgresServer, Process};

use crate::fixture::{LONG, grant, grant_eventually, init, name, open_any, shared_server, until};

/// A `psql` session, which prints the result of each statement.
struct Psql(Process, BufReader<std::process::ChildStdout>);

impl Psql {
    fn start(server: &PostgresServer) -> Psql {
        let mut command = server.psql_command();
        let mut process = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let out = BufReader::new(process.child().stdout.take().unwrap());
        Psql(process, out)
    }

    fn execute(&mut self, statement: &str) -> String {
        self.0.child().stdin.as_mut().unwrap().write_all(format!("{statement};\n").as_bytes()).unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

/// A new table on the shared server. Advisory locks are those of the whole database, so each test
/// also has its own lock names.
async fn new_table(key: &str) -> (Arc<PostgresServer>, String, String) {
    static TABLES: AtomicU32 = AtomicU32::new(0);
    let (server, number) = (shared_server(), TABLES.fetch_add(1, Ordering::Relaxed));
    let table = format!("advisory{number}.lease");
    let url = format!("{}?table={table}&mode=advisory&key_form={key}", server.url());
    init(&url).await.unwrap();
    (server, url, table)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_excludes_and_is_excluded() {
    let (server, url, _) = new_table("raw").await;
    let store = open_any(&url).await.unwrap();
    let mut psql = Psql::start(&server);
    for (text, key) in [("42", "42"), ("-7", "-7"), ("4,-2", "4, -2"), ("9223372036854775807", "9223372036854775807")] {
        let claim = Claim::new(name(text), LONG);
        assert_eq!(psql.execute(&format!("select pg_advisory_lock({key}) is not null")), "t");
        let Attempt::Held(held) = store.request(&claim).await.unwrap() else { panic!("{key} is held by psql") };
        assert_eq!(held.by.holder, None, "by another program");
        assert!(store.inspect(claim.name(), Space::Locks).await.unwrap().pop().is_some_and(|by| by.holder.is_none()));
        assert_eq!(psql.execute(&format!("select pg_advisory_unlock({key})")), "t");
        grant_eventually(&*store, &claim).await;
        assert_eq!(psql.execute(&format!("select pg_try_advisory_lock({key})")), "f", "{key}");
        assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
        assert_eq!(psql.execute(&format!("select pg_try_advisory_lock({key})")), "t", "{key}");
        psql.execute(&format!("select pg_advisory_unlock({key})"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_gets_what_psql_gives_back_or_leaves_behind() {
    let (server, url, table) = new_table("raw").await;
    let locks = Locks::builder_of(open_any(&url).await.unwrap()).ttl(LONG).build();
    let mut psql = Psql::start(&server);
    psql.execute("select pg_advisory_lock(1042) is not null");
    let mut waiters = tokio::task::JoinSet::new();
    (0..20).for_each(|_| drop(waiters.spawn(locks.lock("1042").acquire())));
    tokio::task::yield_now().await;
    let waiting = format!("wait_event_type = 'Lock' and application_name = 'leasehold {table}'");
    let waiting = format!("select count(*) from pg_stat_activity where {waiting}");
    assert_eq!(server.psql(&waiting), "0", "nobody waits on the server");
    // The process ends, and its connection with it.
    drop(psql);
    // Any of them: tasks start in any order.
    let first = waiters.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(server.psql("select pg_try_advisory_lock(1042)"), "f");
    waiters.shutdown().await;
    first.release().await.unwrap();
    locks.close().await;
    until("a lock that is free", || server.psql("select pg_try_advisory_lock(1042)") == "t").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_the_other_client_crate_is_the_same_lock() {
    let (server, url, _) = new_table("sqlx").await;
    let store = open_any(&url).await.unwrap();
    let mut connection = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
    let theirs = sqlx::postgres::PgAdvisoryLock::new("nightly report");
    let claim = Claim::new(name("nightly report"), LONG);
    let held = theirs.acquire(&mut connection).await.unwrap();
    assert!(matches!(store.request(&claim).await.unwrap(), Attempt::Held(_)));
    held.release_now().await.unwrap();
    grant(&*store, &claim).await;
    let refused = theirs.try_acquire(&mut connection).await.unwrap();
    assert!(refused.is_right(), "it is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_the_connection_is_told_at_once_and_frees_all_of_it() {
    let (server, url, table) = new_table("sqlx").await;
    let locks = Locks::builder_of(open_any(&url).await.unwrap()).ttl(LONG).build();
    let guards = [locks.lock("a").acquire().await.unwrap(), locks.lock("b").acquire().await.unwrap()];
    let own = format!("pid in (select pid from pg_stat_activity where application_name = 'leasehold {table}')");
    server.psql(&format!("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory' and {own}"));
    for guard in &guards {
        // The next renewal would be minutes away.
        assert_eq!(guard.lost().await, LossReason::SessionEnded);
    }
    let again = locks.lock("a").acquire().await.unwrap();
    assert!(again.token_if_any() > guards[0].token_if_any());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_server_is_noticed_and_what_was_held_there_is_lost() {
    let server = PostgresServer::start(&[]);
    let url = format!("{}?mode=advisory&key_form=sqlx", server.url());
    init(&url).await.unwrap();
    let locks = Locks::builder_of(open_any(&format!("{url}&response_timeout=500ms")).await.unwrap()).build();
    let guard = locks.lock("job").ttl(LONG).acquire().await.unwrap();
    server.pause();
    assert_eq!(guard.lost().await, LossReason::SessionEnded, "the heartbeat has a deadline of its own");
    server.resume();
    let next = locks.lock("job").ttl(LONG).acquire().await.unwrap();
    assert!(next.token_if_any() > guard.token_if_any());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn breaking_ends_the_connection_of_a_process_that_does_not_notice() {
    let (server, url, table) = new_table("sqlx").await;
    let store = open_any(&url).await.unwrap();
    // A holder whose process is stopped: a lock and a row as it leaves them.
    let claim = Claim::new(name("stands still"), LONG);
    grant(&*store, &claim).await;
    let place = server.psql(&format!("select place from {table}"));
    store.release(&claim, Duration::ZERO).await.unwrap();
    let mut psql = Psql::start(&server);
    let key = place.split_once(':').unwrap().1.to_owned();
    let parts: Vec<i64> = key.split(':').map(|part| part.parse().unwrap()).collect();
    psql.execute(&format!("select pg_advisory_lock(({}::bigint << 32) | {}) is not null", parts[0], parts[1]));
    let pid = psql.execute("select pg_backend_pid()");
    server.psql(&format!("update {table} set holder = '{}', place = '{pid}:{key}', info = null", claim.holder()));
    let seen = store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap();
    assert_eq!(seen.holder, Some(claim.holder()));
    let broken = store.break_lock(claim.name(), &seen, BreakMode::Now).await.unwrap().unwrap();
    assert_eq!(broken.free_in, Duration::ZERO);
    let next = grant(&*store, &Claim::new(name("stands still"), LONG)).await;
    assert!(next > broken.token.unwrap());
    drop(psql);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_somebody_keeps_locked_costs_no_other_lock() {
    let (server, url, table) = new_table("sqlx").await;
    let locks = Locks::builder_of(open_any(&url).await.unwrap()).ttl(LONG).build();
    let mut guards = Vec::new();
    for number in 0..50 {
        guards.push(locks.lock(format!("kept {number}")).acquire().await.unwrap());
    }
    let mut psql = Psql::start(&server);
    psql.execute(&format!("begin; select 1 from {table} where name = 'kept 7' for update"));
    let refused = guards.remove(7).release().await.unwrap_err();
    assert!(refused.is_retryable() && !refused.may_have_taken_effect(), "{refused:?}");
    for guard in &guards {
        guard.renew().await.unwrap();
        assert!(guard.is_valid());
    }
    // A request of another holder for it delays no one either.
    assert!(locks.lock("kept 7").try_acquire().await.is_ok_and(|attempt| attempt.is_none()));
    assert!(guards.iter().all(|guard| guard.is_valid()));
    psql.execute("rollback; select 1");
    // The withdrawal releases it in the background.
    let again = locks.lock("kept 7").acquire().await.unwrap();
    again.release().await.unwrap();
    assert!(guards.iter().all(|guard| guard.is_valid()));
}
