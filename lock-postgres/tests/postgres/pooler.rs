//! Behind a pooler that shares connections between transactions.

use std::time::Duration;

use lock_core::{Claim, ErrorKind, LockStore, Space, WaitStyle};
use lock_testkit::PgBouncer;

use crate::fixture::{LONG, Table, codes, grant, init, locks, name, open, open_any, shared_server, warnings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pooler_is_found_out_and_said() {
    let table = Table::new().await;
    let server = &*table.server;
    let direct = table.open().await;
    assert_eq!(direct.guarantees().waiting, WaitStyle::Notified);
    // One refuses settings that it does not know; the other ignores them.
    for pooler in [PgBouncer::start(server), PgBouncer::start_ignoring_options(server)] {
        let pooled = open(&format!("{}?table={}", pooler.url(), table.name)).await;
        assert_eq!(pooled.guarantees().waiting, WaitStyle::Polled);
        assert_eq!(codes(&warnings(&*pooled).await), ["pooler"]);
        assert_eq!(pooled.realm(), direct.realm(), "the same data");
        let claim = Claim::new(name("job"), LONG);
        let token = grant(&*pooled, &claim).await;
        assert_eq!(grant(&*direct, &claim).await, token, "the same lock");
        let waiter = tokio::spawn(locks(&pooled).lock("job").acquire());
        direct.release(&claim, Duration::ZERO).await.unwrap();
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_get_answers_to_their_own_questions() {
    let table = Table::new().await;
    let pooler = PgBouncer::start(&table.server);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let store = open(&format!("{}?table={}", pooler.url(), table.name)).await;
        for task in 0..4 {
            let store = store.clone();
            tasks.spawn(async move {
                for turn in 0..25 {
                    let claim = Claim::new(name(&format!("job {number} {task} {turn} '; --")), LONG);
                    grant(&*store, &claim).await;
                    let by = store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap();
                    assert_eq!(by.holder, Some(claim.holder()));
                    if turn % 2 == 0 {
                        store.release(&claim, Duration::ZERO).await.unwrap();
                    }
                }
            });
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let rows = table.server.psql(&format!("select count(*), count(holder) from {}", table.name));
    assert_eq!(rows, "400|192");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn advisory_locks_are_refused() {
    let server = shared_server();
    let keys = "?table=refused.lease&mode=advisory";
    init(&format!("{}{keys}", server.url())).await.unwrap();
    for pooler in [PgBouncer::start(&server), PgBouncer::start_ignoring_options(&server)] {
        let error = open_any(&format!("{}{keys}", pooler.url())).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("pooler"), "{error}");
    }
    open_any(&format!("{}{keys}", server.url())).await.unwrap();
}
