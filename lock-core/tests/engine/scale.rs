//! Ten thousand leases: one task, few calls, little memory.

use std::sync::atomic::Ordering;

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Call, Disturbance};
use lock_core::*;
use tokio::time::sleep;

const MANY: usize = 10_000;

async fn hold_many(locks: &Locks) -> Vec<LockGuard> {
    hold(locks, MANY).await
}

async fn hold(locks: &Locks, count: usize) -> Vec<LockGuard> {
    let mut guards = Vec::with_capacity(count);
    for number in 0..count {
        guards.push(locks.lock(format!("lock {number}")).acquire().await.unwrap());
    }
    guards
}

#[test]
fn ten_thousand_renewed_guards_are_one_task_and_under_one_kibibyte_each() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let locks = Locks::new(MemoryStore::new());
    let mut guards = Vec::new();
    let held = allocation_counter::measure(|| guards = runtime.block_on(hold_many(&locks)));
    println!("{} bytes each", held.bytes_current / MANY as i64);
    assert!(held.bytes_current < 1024 * MANY as i64, "{} bytes each", held.bytes_current / MANY as i64);

    runtime.block_on(async { sleep(100 * SECOND).await });
    assert!(guards.iter().all(|guard| guard.is_valid()));
    assert_eq!(runtime.handle().metrics().num_alive_tasks(), 1);
}

#[test]
fn a_thousand_cycles_leave_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let locks = Locks::new(MemoryStore::new());
    let cycles = |count: usize| {
        runtime.block_on(async {
            for _ in 0..count {
                locks.lock("a").acquire().await.unwrap().release().await.unwrap();
            }
        });
    };
    cycles(10);
    let left = allocation_counter::measure(|| cycles(1_000));
    assert!(left.bytes_current < 4096, "{} bytes are left after 1,000 cycles", left.bytes_current);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_leases_are_renewed_with_few_calls() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guards = hold_many(&locks).await;
    sleep(11 * SECOND).await;
    assert!(store.calls(Call::Renew) <= 20, "{} calls", store.calls(Call::Renew));
    assert_eq!(store.seen.batches.lock().unwrap().iter().sum::<usize>(), MANY);
    drop(guards);
    locks.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_without_an_answer_is_asked_again_in_smaller_ones() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guards = hold(&locks, 480).await;
    store.script(Call::Renew, [Disturbance::LoseReply; 1 + 8]);
    sleep(25 * SECOND).await;
    assert!(guards.iter().all(|guard| guard.is_valid()));
    let batches = store.seen.batches.lock().unwrap();
    assert_eq!(batches[0], 480);
    assert!(batches[1..9].iter().all(|size| *size <= 64), "{batches:?}");
    assert!(batches[9..].contains(&30), "{batches:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_away_is_asked_in_full_batches_when_it_is_back() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guards = hold_many(&locks).await;
    store.always(Call::Renew, Disturbance::Fail);
    sleep(25 * SECOND).await;
    assert!(store.calls(Call::Renew) > 5 * 20, "it was asked all the time");
    store.always(Call::Renew, Disturbance::Pass);
    let before = store.calls(Call::Renew);
    sleep(2 * SECOND).await;
    assert!(store.calls(Call::Renew) - before <= 20, "{} calls", store.calls(Call::Renew) - before);
    sleep(60 * SECOND).await;
    assert!(guards.iter().all(|guard| guard.is_valid()));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_guards_that_are_dropped_at_once_are_given_back_a_few_at_a_time() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guards = hold_many(&locks).await;
    store.seen.releases_take_a_moment.store(true, Ordering::SeqCst);
    drop(guards);
    locks.close().await;
    assert_eq!(store.calls(Call::Release), MANY);
    let most = store.seen.most_releases.load(Ordering::SeqCst);
    assert!((2..=256).contains(&most), "{most} at once");
    assert_eq!(store.memory.list(Space::Locks, None, MANY).await.unwrap(), []);
}
