//! Many concurrent calls, over a slow network.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Attempt, Claim, ErrorKind, LockStore, Locks, ReleaseOutcome};
use lock_postgres::PostgresStore;
use lock_testkit::{PgBouncer, Proxy};
use tokio::task::JoinSet;

use crate::fixture::{LONG, Table, locks, name, open};
use crate::rows::{lock_row, until_locked};

/// A store over a connection with this delay each way.
async fn open_slow(table: &Table, delay: Duration, keys: &str) -> (Proxy, Arc<PostgresStore>) {
    let proxy = Proxy::to(table.server.port());
    proxy.delay(delay);
    let own = format!(":{}/", table.server.port());
    let store = open(&table.url(keys).replace(&own, &format!(":{}/", proxy.port()))).await;
    (proxy, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_wait_for_nobody_however_many_ask() {
    const TTL: Duration = Duration::from_secs(3);
    let table = Table::new().await;
    let (_proxy, store) = open_slow(&table, Duration::from_millis(20), "").await;
    let locks = Locks::builder_of(store).ttl(TTL).build();
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(locks.lock(format!("held {number}")).acquire().await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for number in 0..1_000 {
        let (locks, over) = (locks.clone(), over.clone());
        tasks.spawn(async move {
            let mut failed = 0;
            while !over.load(Ordering::Relaxed) {
                match locks.lock(format!("held {}", number % 50)).try_acquire().await {
                    Ok(attempt) => assert!(attempt.is_none(), "it is held"),
                    Err(_) => failed += 1,
                }
            }
            failed
        });
    }
    // By then each lease was renewed at least once, or is lost.
    tokio::time::sleep(TTL * 3 / 2).await;
    let lost = held.iter().filter(|guard| !guard.is_valid()).count();
    over.store(true, Ordering::Relaxed);
    let failed: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!((lost, failed), (0, 0), "lost, and questions without an answer, at a server that is well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_many_that_are_given_back_at_once_are_given_back() {
    const MANY: usize = 2_000;
    let table = Table::new().await;
    let (proxy, store) = open_slow(&table, Duration::ZERO, "").await;
    let locks = locks(&store);
    let mut requests = JoinSet::new();
    for number in 0..MANY {
        requests.spawn(locks.lock(format!("job {number}")).acquire());
        if requests.len() == 100 {
            drop(requests.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    let guards: Vec<_> = requests.join_all().await.into_iter().map(Result::unwrap).collect();
    // The guards before were released when they were dropped.
    locks.close().await;
    let held = format!("select count(*) from {} where holder is not null", table.name);
    assert_eq!(table.server.psql(&held), guards.len().to_string());
    let claims: Vec<_> = (0..MANY).map(|number| Claim::new(name(&format!("claim {number}")), LONG)).collect();
    let mut granted = JoinSet::new();
    for claim in &claims {
        let (store, claim) = (store.clone(), claim.clone());
        granted.spawn(async move { store.request(&claim).await });
    }
    for attempt in granted.join_all().await {
        assert!(matches!(attempt.unwrap(), Attempt::Granted(_)));
    }
    proxy.delay(Duration::from_millis(20));
    let mut released = JoinSet::new();
    for claim in &claims {
        let (store, claim) = (store.clone(), claim.clone());
        released.spawn(async move { store.release(&claim, Duration::ZERO).await });
    }
    let released = released.join_all().await;
    let failed = released.iter().filter(|released| !matches!(released, Ok(ReleaseOutcome::Held))).count();
    assert_eq!(failed, 0, "of {MANY}");
}

/// Requests all of these concurrently, over one connection.
async fn request_all(store: &Arc<PostgresStore>, claims: &[Claim]) -> Vec<lock_core::Result<Attempt>> {
    let requests = claims.iter().map(|claim| {
        let (store, claim) = (store.clone(), claim.clone());
        tokio::spawn(async move { store.request(&claim).await })
    });
    let mut attempts = Vec::new();
    for request in requests.collect::<Vec<_>>() {
        attempts.push(request.await.unwrap());
    }
    attempts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_ask_for_one_name_at_once_one_gets_it_and_the_others_hear_who_it_is() {
    let table = Table::new().await;
    let pooler = PgBouncer::start(&table.server);
    let direct = open(&table.url("&connections=1")).await;
    let pooled = open(&format!("{}?table={}&connections=1", pooler.url(), table.name)).await;
    for (turn, store) in [&direct, &pooled, &direct, &pooled].into_iter().enumerate() {
        // In the first turn there is no row yet.
        let claims: Vec<_> = (0..40).map(|number| Claim::new(name(&format!("job {}", number % 2)), LONG)).collect();
        let attempts = request_all(store, &claims).await;
        let mut tokens = Vec::new();
        let holders: Vec<_> = claims
            .iter()
            .zip(&attempts)
            .filter_map(|(claim, attempt)| match attempt.as_ref().unwrap() {
                Attempt::Granted(lease) => {
                    tokens.push(lease.token.clone().unwrap().number());
                    Some(claim.holder())
                }
                Attempt::Held(_) => None,
            })
            .collect();
        assert_eq!(holders.len(), 2, "two names");
        assert!(tokens.iter().all(|token| *token == turn as u64 + 1), "{tokens:?} at turn {turn}");
        for attempt in &attempts {
            if let Attempt::Held(held) = attempt.as_ref().unwrap() {
                assert!(holders.contains(&held.by.holder.unwrap()));
            }
        }
        // A second request of every claim changes nothing.
        for (claim, attempt) in claims.iter().zip(request_all(store, &claims).await) {
            assert_eq!(matches!(attempt.unwrap(), Attempt::Granted(_)), holders.contains(&claim.holder()));
        }
        let mut released = JoinSet::new();
        for claim in claims {
            let store = store.clone();
            released.spawn(async move { store.release(&claim, Duration::ZERO).await.unwrap() });
        }
        let held = released.join_all().await.into_iter().filter(|found| *found == ReleaseOutcome::Held).count();
        assert_eq!(held, 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_fails_harms_no_other_that_goes_along() {
    let table = Table::new().await;
    let store = open(&table.url("&connections=1")).await;
    let claims: Vec<_> = (0..40).map(|number| Claim::new(name(&format!("job {number}")), LONG)).collect();
    let schema = table.name.split('.').next().unwrap();
    table.server.psql(&format!(
        "create function {schema}.refuse() returns trigger language plpgsql as $$ begin
             if new.name = 'job 7' then raise 'not this one'; end if; return new; end $$;
         create trigger refuse before insert or update on {} for each row execute function {schema}.refuse()",
        table.name
    ));
    for (number, attempt) in request_all(&store, &claims).await.into_iter().enumerate() {
        match (number, attempt) {
            (7, attempt) => assert_eq!(attempt.unwrap_err().kind(), ErrorKind::Protocol, "its error is its own"),
            (_, attempt) => assert!(matches!(attempt.unwrap(), Attempt::Granted(_)), "job {number}"),
        }
    }
    // The release of a locked row waits, and no other release waits with it.
    let other = lock_row(&table, "job 9");
    until_locked(&table, "job 9").await;
    let mut released = JoinSet::new();
    for (number, claim) in claims.iter().cloned().enumerate() {
        let store = store.clone();
        released.spawn(async move { (number, store.release(&claim, Duration::ZERO).await) });
    }
    let mut last = None;
    while let Some(found) = released.join_next().await {
        let (number, found) = found.unwrap();
        match number {
            7 => assert_eq!(found.unwrap(), ReleaseOutcome::NotHeld),
            9 => assert!(found.is_err_and(|error| error.is_retryable() && !error.may_have_taken_effect())),
            _ => assert_eq!(found.unwrap(), ReleaseOutcome::Held, "job {number}"),
        }
        last = Some(number);
    }
    assert_eq!(last, Some(9), "only its own release waited for it");
    other.end();
    assert_eq!(store.release(&claims[9], Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}
