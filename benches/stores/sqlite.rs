//! A lock in a file, beside what SQLite itself costs on the same disk: an acquire and a release are
//! two transactions, and each is one synced write.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::Locks;
use leasehold::sqlite::{SqliteConfig, SqliteStore};
use leasehold::store::{Claim, Clock, LockName, LockStore, RenewalBatch};
use rusqlite::Connection;

use crate::locks::own_names;
use crate::measure::{compare, median, rate};

const TABLE: &str = "pragma journal_mode = wal; pragma synchronous = full;
    create table lease(name text primary key, holder blob, token integer) strict, without rowid;
    insert into lease values ('x', null, 0)";

pub(crate) async fn run() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder is made");
    let bare = Connection::open(folder.path().join("bare.db")).expect("the file is made");
    bare.execute_batch(TABLE).expect("the table is made");
    let bare = Arc::new(Mutex::new(bare));
    let store = SqliteStore::open(SqliteConfig::new(folder.path().join("locks.db"))).await.expect("the file is made");
    let (store, other) = (Arc::new(store), "two bare transactions");
    let locks = Locks::builder_of(store.clone()).build();
    compare("1 task", async || own_names(&locks, 1).await, other, async || bare_rate(&bare).await).await;
    // Those that come at once share the cost of a sync.
    compare("256 tasks", async || own_names(&locks, 256).await, other, async || bare_rate(&bare).await).await;
    renewals(&*store).await;
}

async fn bare_rate(db: &Arc<Mutex<Connection>>) -> f64 {
    rate(1, |_, until| {
        let db = db.clone();
        let work = move || {
            let db = db.lock().expect("nobody panicked");
            let mut statements = ["begin immediate", "update lease set token = token + 1 where name = 'x'", "commit"]
                .map(|statement| db.prepare(statement).expect("it is SQL"));
            let mut cycles = 0;
            while Instant::now() < until {
                for _ in 0..2 {
                    statements.iter_mut().for_each(|statement| _ = statement.execute([]).expect("it is done"));
                }
                cycles += 1;
            }
            cycles
        };
        async { tokio::task::spawn_blocking(work).await.expect("it ends") }
    })
    .await
}

async fn renewals(store: &dyn LockStore) {
    const LEASES: usize = 512;
    const BATCHES: usize = 51;
    let name = |number| LockName::new(format!("renewed {number}")).expect("it is a name");
    let claims: Vec<_> = (0..LEASES).map(|number| Claim::new(name(number), Duration::from_secs(3600))).collect();
    for claim in &claims {
        store.request(claim).await.expect("it is free");
    }
    let mut millis = Vec::new();
    for _ in 0..BATCHES {
        let (batch, started) = (RenewalBatch::new(&Clock::system(), claims.iter().cloned()), Instant::now());
        store.renew(&batch).await.expect("they are held");
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    println!("  {LEASES} renewals in one batch: {:.2} ms", median(millis));
}
