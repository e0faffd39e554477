//! Ten thousand leases: one task, few calls, little memory.

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Op, Step};
use lock_core::*;
use tokio::time::sleep;

const MANY: usize = 10_000;

async fn hold_many(locks: &Locks) -> Vec<LockGuard> {
    let mut guards = Vec::with_capacity(MANY);
    for number in 0..MANY {
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
    assert!(store.calls(Op::Renew) <= 20, "{} calls", store.calls(Op::Renew));
    assert_eq!(store.seen.batches.lock().unwrap().iter().sum::<usize>(), MANY);
    drop(guards);
    locks.close().await;
}

#[tokio::test(start_paused = true)]
async fn leases_without_an_answer_are_asked_again_in_smaller_batches() {
    let store = Watched::new(MemoryStore::new());
    let locks = store.locks();
    let guards = hold_many(&locks).await;
    store.next(Op::Renew, [Step::LoseReply; 20]);
    sleep(25 * SECOND).await;
    assert!(guards.iter().all(|guard| guard.is_valid()));
    let batches = store.seen.batches.lock().unwrap();
    assert_eq!(batches.iter().take(20).max(), Some(&512));
    assert!(batches.iter().skip(20).any(|size| *size == 64), "{batches:?}");
}
