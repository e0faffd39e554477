//! The statements beside other transactions.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Attempt, Claim, Clock, LockStore, RenewalBatch, RenewalOutcome, Space};
use lock_postgres::PostgresStore;
use lock_testkit::{PgBouncer, PostgresServer, Process};

use crate::fixture::{LONG, Table, grant, grant_eventually, init, name, open, until};

/// A transaction of another client that stays open.
pub(crate) struct OpenTransaction(Process);

impl OpenTransaction {
    fn begin(server: &PostgresServer, statement: &str) -> OpenTransaction {
        let mut command = server.psql_command();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start(&mut command);
        let text = format!("begin; {statement}; select 'mark of {statement_len}';\n", statement_len = statement.len());
        process.child().stdin.as_mut().unwrap().write_all(text.as_bytes()).unwrap();
        OpenTransaction(process)
    }

    pub(crate) fn end(mut self) {
        self.0.child().stdin.as_mut().unwrap().write_all(b"rollback;\n").unwrap();
        drop(self.0.child().stdin.take());
        self.0.wait();
    }
}

pub(crate) async fn until_locked(table: &Table, row: &str) {
    let free = format!(
        "select count(*) from (select 1 from {} where name = '{row}' for update skip locked) as free",
        table.name
    );
    until("the lock of the row", || table.server.psql(&free) == "0").await;
}

pub(crate) fn lock_row(table: &Table, row: &str) -> OpenTransaction {
    OpenTransaction::begin(&table.server, &format!("select 1 from {} where name = '{row}' for update", table.name))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_waits_for_no_row_that_another_transaction_has_locked() {
    let table = Table::new().await;
    let store = table.open().await;
    let first = Claim::new(name("job"), LONG);
    grant(&*store, &first).await;
    store.release(&first, Duration::ZERO).await.unwrap();
    let other = lock_row(&table, "job");
    until_locked(&table, "job").await;
    let claim = Claim::new(name("job"), LONG);
    assert!(matches!(store.request(&claim).await.unwrap(), Attempt::Held(_)));
    store.release(&claim, Duration::ZERO).await.unwrap();
    other.end();
    // It was not granted after the request had returned.
    assert_eq!(table.server.psql(&format!("select holder is null from {}", table.name)), "t");
    grant(&*store, &Claim::new(name("job"), LONG)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_locked_holds_up_no_other_renewal() {
    let table = Table::new().await;
    let store = table.open().await;
    let claims: Vec<_> = (0..20).map(|number| Claim::new(name(&format!("job {number}")), LONG)).collect();
    for claim in &claims {
        grant(&*store, claim).await;
    }
    let other = lock_row(&table, "job 7");
    until_locked(&table, "job 7").await;
    let batch = RenewalBatch::new(&Clock::system(), claims.clone());
    let failure = store.renew(&batch).await.unwrap_err().to_string();
    for (number, entry) in batch.iter().enumerate() {
        let expected = (number != 7).then_some(RenewalOutcome::HeldFor(LONG));
        assert_eq!(entry.outcome(), expected, "of job {number}");
    }
    assert!(failure.contains("locked the row"), "{failure}");
    other.end();
    let again = RenewalBatch::new(&Clock::system(), [claims[7].clone()]);
    store.renew(&again).await.unwrap();
    assert_eq!(again.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(LONG)));
}

/// Many holders take turns on few names, while rows are pruned: no token is given twice, and none
/// is lower than before.
async fn take_turns(stores: &[Arc<PostgresStore>], pruned: bool) {
    let mut tasks = tokio::task::JoinSet::new();
    let (removed, pruned_count) = tokio::sync::watch::channel(0);
    let half_way = Arc::new(tokio::sync::Barrier::new(8));
    for number in 0..8_usize {
        let store = stores[number % stores.len()].clone();
        let (mut pruned_count, half_way) = (pruned_count.clone(), half_way.clone());
        tasks.spawn(async move {
            let mut tokens = Vec::new();
            for turn in 0..40 {
                // All rows are free once. Before and after, it depends on chance whether pruning
                // finds a free row.
                if pruned && turn == 20 {
                    half_way.wait().await;
                    pruned_count.wait_for(|count| *count > 0).await.unwrap();
                }
                let job = (number + turn) % 2;
                // So short that the row is old at once: the lease may have ended before its
                // release.
                let ttl = if pruned { Duration::from_millis(10) } else { LONG };
                let claim = Claim::new(name(&format!("job {job}")), ttl);
                tokens.push((job, grant_eventually(&*store, &claim).await.number()));
                store.release(&claim, Duration::ZERO).await.unwrap();
            }
            tokens
        });
    }
    let over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let pruning = tokio::spawn({
        let (store, over) = (stores[0].clone(), over.clone());
        async move {
            while pruned && !over.load(std::sync::atomic::Ordering::Relaxed) {
                // With this idle time every free row is old.
                match store.prune(Duration::ZERO).await {
                    Ok(count) => removed.send_modify(|all| *all += count),
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let mut all = Vec::new();
    while let Some(tokens) = tasks.join_next().await {
        let tokens = tokens.unwrap();
        for job in 0..2 {
            let own: Vec<_> = tokens.iter().filter(|(of, _)| *of == job).map(|(_, token)| *token).collect();
            assert!(own.is_sorted_by(|a, b| a < b), "tokens fell: {own:?}");
        }
        all.extend(tokens);
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    pruning.await.unwrap();
    let count = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), count, "a token was given twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_while_rows_are_removed() {
    let table = Table::new().await;
    take_turns(&[table.open().await, table.open().await], true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_comes_back_goes_on_above_what_it_had() {
    let table = Table::new().await;
    let store = table.open().await;
    let mut last = 0;
    for _ in 0..5 {
        let claim = Claim::new(name("job"), LONG);
        let token = grant(&*store, &claim).await.number();
        assert!(token > last, "{token} after {last}");
        last = token;
        store.release(&claim, Duration::ZERO).await.unwrap();
    }
    // Its lease would have ended long ago.
    table.server.psql(&format!("update {} set expires_at = now() - interval '8 days'", table.name));
    store.prune(Duration::from_secs(7 * 86_400)).await.unwrap();
    assert_eq!(table.server.psql(&format!("select count(*) from {}", table.name)), "0");
    assert!(grant(&*store, &Claim::new(name("job"), LONG)).await.number() > last);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_default_of_the_database_will_do() {
    let server = PostgresServer::start(&["synchronous_commit=off", "default_transaction_isolation=serializable"]);
    let pooler = PgBouncer::start(&server);
    init(&format!("{}?table=lease", server.url())).await.unwrap();
    for isolation in ["serializable", "repeatable read"] {
        server.psql(&format!("alter database postgres set default_transaction_isolation = '{isolation}'"));
        server.psql("alter role postgres set synchronous_commit = 'off'");
        let direct = open(&format!("{}?table=lease", server.url())).await;
        let pooled = open(&format!("{}?table=lease", pooler.url())).await;
        take_turns(&[direct, pooled], false).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_first_in_the_path_of_the_user_decides_nothing() {
    let server = PostgresServer::start(&[]);
    let pooler = PgBouncer::start(&server);
    init(&format!("{}?table=lease", server.url())).await.unwrap();
    // A clock that is an hour ahead, and a comparison that is always true.
    server.psql(
        "create schema evil;
         create function evil.clock_timestamp() returns timestamptz language sql
             as $$ select pg_catalog.clock_timestamp() + interval '1 hour' $$;
         create function evil.yes(timestamptz, timestamptz) returns boolean language sql as 'select true';
         create operator evil.<= (leftarg = timestamptz, rightarg = timestamptz, function = evil.yes);
         alter role postgres set search_path = evil, pg_catalog;
         alter database postgres set search_path = evil, pg_catalog",
    );
    for (kind, url) in [("direct", server.url()), ("pooled", pooler.url())] {
        let store = open(&format!("{url}?table=lease")).await;
        let claim = Claim::new(name(kind), LONG);
        grant(&*store, &claim).await;
        let other = store.request(&Claim::new(name(kind), LONG)).await.unwrap();
        assert!(matches!(other, Attempt::Held(_)), "{kind}: it is held, and was taken: {other:?}");
        let seen = store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap();
        assert!(seen.remaining.unwrap() <= LONG, "{kind}: {seen:?}");
        assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), lock_core::ReleaseOutcome::Held);
    }
}
