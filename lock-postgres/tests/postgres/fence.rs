//! The fence in the transaction of the caller, on a real table.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::Random;
use lock_core::{Claim, Clock, FencingToken, LockStore, RenewalBatch, RenewalOutcome};
use lock_postgres::{FenceCondition, PostgresStore};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row as _};

use crate::fixture::{LONG, Table, grant, grant_eventually, name};

const SCHEDULES: u64 = 1_000;
/// Number of schedules that run at the same time.
const MAX_CONCURRENT: usize = 16;
/// Short, so that a pause, which is up to twice as long, often exceeds it.
const TTL: Duration = Duration::from_millis(20);

/// The point at which the statement of the fence is run.
#[derive(Clone, Copy, Debug)]
enum FencePoint {
    Never,
    /// First, as the documentation says.
    BeforeReading,
    BeforeWriting,
}

/// A table with a number for each schedule, which holders read and write.
struct Resource {
    table: Table,
    store: Arc<PostgresStore>,
    pool: PgPool,
    fence: FenceCondition,
    accounts: String,
}

/// The transaction of one holder, with its pauses before each step.
struct Write {
    fence_point: FencePoint,
    isolation: &'static str,
    pauses: [Duration; 3],
}

impl Resource {
    async fn new() -> Arc<Resource> {
        let table = Table::new().await;
        let store = table.open().await;
        let accounts = table.name.replace("lease", "account");
        table.server.psql(&format!(
            "create table {accounts} (id bigint primary key, value bigint not null);
             insert into {accounts} select n, 0 from generate_series(1, {SCHEDULES}) n"
        ));
        let pool =
            PgPoolOptions::new().max_connections(2 * MAX_CONCURRENT as u32).connect(&table.server.url()).await.unwrap();
        let fence = store.fence_condition();
        Arc::new(Resource { table, store, pool, fence, accounts })
    }

    /// True if the fence lets this holder pass.
    async fn passes(
        &self,
        transaction: &mut sqlx::Transaction<'_, sqlx::Postgres>,
        claim: &Claim,
        token: &FencingToken,
    ) -> Result<bool, sqlx::Error> {
        let check = sqlx::query(AssertSqlSafe(self.fence.check().to_owned()));
        let check = check.bind(claim.name().to_string()).bind(token.number() as i64).bind(claim.holder().to_string());
        Ok(check.fetch_optional(&mut **transaction).await?.is_some())
    }

    /// Reads the value and writes it plus one; returns whether that was committed.
    async fn add_one(&self, id: u64, claim: &Claim, token: &FencingToken, write: &Write) -> Result<bool, sqlx::Error> {
        tokio::time::sleep(write.pauses[0]).await;
        let mut transaction = self.pool.begin().await?;
        let isolation = format!("set transaction isolation level {}", write.isolation);
        sqlx::raw_sql(AssertSqlSafe(isolation)).execute(&mut *transaction).await?;
        if matches!(write.fence_point, FencePoint::BeforeReading)
            && !self.passes(&mut transaction, claim, token).await?
        {
            return Ok(false);
        }
        let read = format!("select value from {} where id = $1", self.accounts);
        let read = sqlx::query(AssertSqlSafe(read)).bind(id as i64).fetch_one(&mut *transaction).await?;
        let value: i64 = read.try_get(0)?;
        tokio::time::sleep(write.pauses[1]).await;
        if matches!(write.fence_point, FencePoint::BeforeWriting)
            && !self.passes(&mut transaction, claim, token).await?
        {
            return Ok(false);
        }
        let update = format!("update {} set value = $2 where id = $1", self.accounts);
        let update = sqlx::query(AssertSqlSafe(update)).bind(id as i64).bind(value + 1);
        update.execute(&mut *transaction).await?;
        tokio::time::sleep(write.pauses[2]).await;
        transaction.commit().await.map(|()| true)
    }

    /// Two holders after each other, of which the first pauses, perhaps for longer than its lease;
    /// returns which of them committed.
    async fn schedule(&self, id: u64, fence_point: Option<FencePoint>) -> [bool; 2] {
        let mut random = Random::new(id);
        let mut write = |longest: Duration| Write {
            fence_point: fence_point.unwrap_or(match random.below(2) {
                0 => FencePoint::BeforeReading,
                _ => FencePoint::BeforeWriting,
            }),
            isolation: match fence_point {
                // At a higher level the database itself would refuse many lost updates.
                Some(FencePoint::Never) => "read committed",
                _ => ["read committed", "repeatable read", "serializable"][random.below(3) as usize],
            },
            pauses: [(); 3].map(|()| Duration::from_micros(random.below(longest.as_micros() as u64))),
        };
        let (first, second) = (write(TTL * 2), write(TTL / 4));
        let job = name(&format!("account/{id}"));
        let claims = [Claim::new(job.clone(), TTL), Claim::new(job, LONG)];
        let token = grant(&*self.store, &claims[0]).await;
        let paused = self.add_one(id, &claims[0], &token, &first);
        let next = async {
            let token = grant_eventually(&*self.store, &claims[1]).await;
            self.add_one(id, &claims[1], &token, &second).await
        };
        let (paused, next) = tokio::join!(paused, next);
        [committed(paused), committed(next)]
    }

    /// Runs all schedules; returns the committed updates of first and of second holders, and the
    /// sum in the table.
    async fn run(self: &Arc<Self>, fence_point: Option<FencePoint>) -> ([i64; 2], i64) {
        let mut commits = [0; 2];
        let mut count = |[first, second]: [bool; 2]| {
            commits[0] += i64::from(first);
            commits[1] += i64::from(second);
        };
        let mut running = tokio::task::JoinSet::new();
        for id in 1..=SCHEDULES {
            if running.len() >= MAX_CONCURRENT {
                count(running.join_next().await.unwrap().unwrap());
            }
            let resource = self.clone();
            running.spawn(async move { resource.schedule(id, fence_point).await });
        }
        while let Some(more) = running.join_next().await {
            count(more.unwrap());
        }
        let sum = self.table.server.psql(&format!("select sum(value) from {}", self.accounts));
        (commits, sum.parse().unwrap())
    }
}

/// True if the transaction committed; a serialization failure counts as a refusal.
fn committed(added: Result<bool, sqlx::Error>) -> bool {
    added.unwrap_or_else(|error| {
        let code = error.as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert!(matches!(code.as_deref(), Some("40001")), "{error}");
        false
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_update_is_lost_behind_the_fence_in_a_thousand_schedules() {
    let resource = Resource::new().await;
    let ([first, second], value) = resource.run(None).await;
    assert_eq!(value, first + second, "{} updates were lost", first + second - value);
    println!("{first} first holders wrote in time, and {second} second ones");
    let all = SCHEDULES as i64;
    assert!(first > 0 && first < all, "some first holders wrote in time, and some came late: {first}");
    // The database itself refuses few, because of a concurrent transaction.
    assert!(second > all / 2, "{second} second holders wrote");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_fence_the_same_schedules_lose_updates() {
    let resource = Resource::new().await;
    let ([first, second], value) = resource.run(Some(FencePoint::Never)).await;
    let commits = first + second;
    assert_eq!(commits, 2 * SCHEDULES as i64, "nobody is refused");
    assert!(value < commits, "no update was lost: these schedules prove nothing");
    println!("{} of {commits} updates were lost", commits - value);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fenced_transaction_lets_renewals_and_its_release_pass_and_a_takeover_wait() {
    let resource = Resource::new().await;
    let store = &resource.store;
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&**store, &claim).await;
    let mut transaction = resource.pool.begin().await.unwrap();
    assert!(resource.passes(&mut transaction, &claim, &token).await.unwrap());
    let batch = RenewalBatch::new(&Clock::system(), [claim.clone()]);
    store.renew(&batch).await.unwrap();
    assert_eq!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(LONG)));
    store.release(&claim, Duration::ZERO).await.unwrap();
    let next = Claim::new(name("job"), LONG);
    for _ in 0..3 {
        let attempt = store.request(&next).await.unwrap();
        assert!(matches!(attempt, lock_core::Attempt::Held(_)), "granted beside a fenced transaction: {attempt:?}");
    }
    transaction.commit().await.unwrap();
    assert!(grant_eventually(&**store, &next).await > token);
    let mut late = resource.pool.begin().await.unwrap();
    assert!(!resource.passes(&mut late, &claim, &token).await.unwrap(), "the earlier holder is refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demand_fails_where_the_check_gives_no_row() {
    let resource = Resource::new().await;
    let claim = Claim::new(name("job"), LONG);
    let token = grant(&*resource.store, &claim).await;
    let demand = |holder: String| {
        let sql = resource.fence.demand().replace("$1", "'job'").replace("$2", &token.number().to_string());
        resource.table.server.try_psql(&sql.replace("$3", &format!("'{holder}'")))
    };
    assert_eq!(demand(claim.holder().to_string()), Ok("1".to_owned()));
    resource.store.release(&claim, Duration::ZERO).await.unwrap();
    let refused = demand(claim.holder().to_string()).unwrap_err();
    assert!(refused.contains("division by zero"), "{refused}");
}
