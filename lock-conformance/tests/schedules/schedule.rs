//! [`run_schedule`]: one random schedule.

use std::sync::Arc;

use lock_conformance::Random;
use lock_core::{Attempt, Claim, LockName, Locks};

use crate::client::Client;
use crate::stores::Stores;
use crate::world::World;
use crate::{CALL_TIMEOUT, MAX_DELAY, TTL};

const CLIENTS: u64 = 4;

/// Runs one schedule in paused time; returns the number of updates lost without a fence.
pub(crate) fn run_schedule(stores: Stores, seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(schedule(stores, seed))
}

async fn schedule(stores: Stores, seed: u64) -> u64 {
    let world = Arc::new(World::new());
    let mut random = Random::new(seed);
    let mut clients = tokio::task::JoinSet::new();
    let mut held = Vec::new();
    let mut links = Vec::new();
    for _ in 0..CLIENTS {
        let (store, faulty) = stores.open_faulty(&mut random).await;
        let locks = Locks::builder_of(store).ttl(TTL).call_timeout(CALL_TIMEOUT).build();
        // Another lock is held for the whole time, so that a shared session goes on.
        held.push(locks.lock(format!("other/{}", links.len())).acquire().await.ok());
        links.push((faulty, locks.clone()));
        clients.spawn(Client { world: world.clone(), locks, random: Random::new(random.next_u64()) }.run());
    }
    let monitor = tokio::spawn({
        let world = world.clone();
        async move {
            loop {
                world.assert_exclusive();
                tokio::time::sleep(TTL / 97).await;
            }
        }
    });
    let forgetting = stores.forgetful.then(|| tokio::spawn(stores.clone().forget(Random::new(random.next_u64()))));
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    if let Some(forgetting) = forgetting {
        forgetting.abort();
    }
    links.iter().flat_map(|(faulty, _)| faulty).for_each(|link| link.heal());
    // Calls in flight are applied by then, and their leases must be gone one TTL later.
    tokio::time::sleep(MAX_DELAY + TTL + TTL / 20).await;
    let claim = Claim::new(LockName::new("job").unwrap(), TTL);
    let attempt = stores.open_plain().await.request(&claim).await.unwrap();
    assert!(matches!(attempt, Attempt::Granted(_)), "something was left behind: {attempt:?}");
    monitor.abort();
    assert!(!monitor.await.is_err_and(|error| error.is_panic()), "two guards were valid at once");
    world.check()
}
