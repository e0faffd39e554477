//! Many at once, over a network that takes long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lock_core::{Attempt, Claim, ErrorKind, LockStore, Locks, ReleaseOutcome};
use lock_postgres::PostgresStore;
use lock_testkit::{PgBouncer, Proxy};
use tokio::task::JoinSet;

use crate::bed::{LONG, Table, locks, name, open};
use crate::rows::{lock_row, until_locked};

/// The table through a link that takes this long each way.
async fn far(table: &Table, delay: Duration, keys: &str) -> (Proxy, Arc<PostgresStore>) {
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
    let (_proxy, store) = far(&table, Duration::from_millis(20), "").await;
    let locks = Locks::builder_of(store).ttl(TTL).build();
    let mut held = Vec::new();
    for number in 0..50 {
        held.push(locks.lock(format!("held {number}")).acquire().await.unwrap());
    }
    let over = Arc::new(AtomicBool::new(false));
    let mut crowd = JoinSet::new();
    for number in 0..1_000 {
        let (locks, over) = (locks.clone(), over.clone());
        crowd.spawn(async move {
            let mut failed = 0;
            while !over.load(Ordering::Relaxed) {
                match locks.lock(format!("held {}", number % 50)).try_acquire().await {
                    Ok(asked) => assert!(asked.is_none(), "it is held"),
                    Err(_) => failed += 1,
                }
            }
            failed
        });
    }
    // Each is renewed at least once, or is lost.
    tokio::time::sleep(TTL * 3 / 2).await;
    let lost = held.iter().filter(|guard| !guard.is_valid()).count();
    over.store(true, Ordering::Relaxed);
    let failed: usize = crowd.join_all().await.into_iter().sum();
    assert_eq!((lost, failed), (0, 0), "lost, and questions without an answer, at a server that is well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_of_many_that_are_given_back_at_once_are_given_back() {
    const MANY: usize = 2_000;
    let table = Table::new().await;
    let (proxy, store) = far(&table, Duration::ZERO, "").await;
    let locks = locks(&store);
    let mut asking = JoinSet::new();
    for number in 0..MANY {
        asking.spawn(locks.lock(format!("job {number}")).acquire());
        if asking.len() == 100 {
            drop(asking.join_next().await.unwrap().unwrap().unwrap());
        }
    }
    let kept: Vec<_> = asking.join_all().await.into_iter().map(Result::unwrap).collect();
    // Those before were given back by being dropped.
    locks.close().await;
    let held = format!("select count(*) from {} where holder is not null", table.name);
    assert_eq!(table.server.psql(&held), kept.len().to_string());
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
        released.spawn(async move { store.release(&claim).await });
    }
    let released = released.join_all().await;
    let failed = released.iter().filter(|released| !matches!(released, Ok(ReleaseOutcome::Held))).count();
    assert_eq!(failed, 0, "of {MANY}");
}

/// All of these at once, over one connection.
async fn ask_all(store: &Arc<PostgresStore>, claims: &[Claim]) -> Vec<lock_core::Result<Attempt>> {
    let asked = claims.iter().map(|claim| {
        let (store, claim) = (store.clone(), claim.clone());
        tokio::spawn(async move { store.request(&claim).await })
    });
    let mut answers = Vec::new();
    for one in asked.collect::<Vec<_>>() {
        answers.push(one.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_that_ask_for_one_name_at_once_one_gets_it_and_the_others_hear_who_it_is() {
    let table = Table::new().await;
    let pooler = PgBouncer::start(&table.server);
    let direct = open(&table.url("&connections=1")).await;
    let pooled = open(&format!("{}?table={}&connections=1", pooler.url(), table.name)).await;
    for (turn, store) in [&direct, &pooled, &direct, &pooled].into_iter().enumerate() {
        // The first time there is no row yet.
        let claims: Vec<_> = (0..40).map(|number| Claim::new(name(&format!("job {}", number % 2)), LONG)).collect();
        let answers = ask_all(store, &claims).await;
        let mut tokens = Vec::new();
        let holders: Vec<_> = claims
            .iter()
            .zip(&answers)
            .filter_map(|(claim, answer)| match answer.as_ref().unwrap() {
                Attempt::Granted(lease) => {
                    tokens.push(lease.token.clone().unwrap().number());
                    Some(claim.holder())
                }
                Attempt::Held(_) => None,
            })
            .collect();
        assert_eq!(holders.len(), 2, "two names");
        assert!(tokens.iter().all(|token| *token == turn as u64 + 1), "{tokens:?} at turn {turn}");
        for answer in &answers {
            if let Attempt::Held(held) = answer.as_ref().unwrap() {
                assert!(holders.contains(&held.by.holder.unwrap()));
            }
        }
        // Asked again, by those who have it and by those who do not: nothing changes.
        for (claim, answer) in claims.iter().zip(ask_all(store, &claims).await) {
            assert_eq!(matches!(answer.unwrap(), Attempt::Granted(_)), holders.contains(&claim.holder()));
        }
        let mut released = JoinSet::new();
        for claim in claims {
            let store = store.clone();
            released.spawn(async move { store.release(&claim).await.unwrap() });
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
    for (number, answer) in ask_all(&store, &claims).await.into_iter().enumerate() {
        match (number, answer) {
            (7, answer) => assert_eq!(answer.unwrap_err().kind(), ErrorKind::Protocol, "its error is its own"),
            (_, answer) => assert!(matches!(answer.unwrap(), Attempt::Granted(_)), "job {number}"),
        }
    }
    // A row that somebody has locked is waited for, and nobody waits along.
    let other = lock_row(&table, "job 9");
    until_locked(&table, "job 9").await;
    let mut released = JoinSet::new();
    for (number, claim) in claims.iter().cloned().enumerate() {
        let store = store.clone();
        released.spawn(async move { (number, store.release(&claim).await) });
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
    assert_eq!(store.release(&claims[9]).await.unwrap(), ReleaseOutcome::Held);
}
