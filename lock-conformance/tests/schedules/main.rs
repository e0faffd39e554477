//! Random schedules over the memory store and over quorums of it, in paused time. Clients' calls
//! are delayed, lost and repeated; clients give up at any moment, and act on outdated views.
//!
//! | file | content |
//! |---|---|
//! | `world.rs` | the record of who held the lock when, and its checks; no async |
//! | `resource.rs` | a counter with a fence, and one without |
//! | `client.rs` | a client that acquires, writes and releases |
//! | `stores.rs` | the stores, behind faulty links |
//! | `schedule.rs` | one schedule |

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

mod chance;
mod client;
mod resource;
mod schedule;
mod stores;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::{Clock, MemoryStore};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::schedule::run_schedule;
use crate::stores::Stores;

const TTL: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_millis(1500);
/// Number of schedules of one test.
const SCHEDULES: u32 = 250;

/// Runs random schedules. `LEASEHOLD_SCHEDULES` sets their number, `LEASEHOLD_SEED` repeats a
/// single one.
fn check_schedules(stores: fn() -> Stores) {
    let lost = AtomicU64::new(0);
    let cases =
        std::env::var("LEASEHOLD_SCHEDULES").map_or(SCHEDULES, |n| n.parse().expect("LEASEHOLD_SCHEDULES is a number"));
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 0, ..Default::default() };
    let only = std::env::var("LEASEHOLD_SEED").ok().map(|seed| seed.parse().expect("LEASEHOLD_SEED is a number"));
    let seeds = only.map_or(any::<u64>().boxed(), |seed: u64| Just(seed).boxed());
    let run = TestRunner::new(config).run(&seeds, |seed| {
        lost.fetch_add(run_schedule(stores(), seed), Ordering::Relaxed);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
    let lost = lost.into_inner();
    println!("no violation in {cases} schedules; {lost} updates lost without a fence");
    // Checks the harness itself: pauses that never do harm would prove nothing.
    assert!(lost > 0 || only.is_some(), "without a fence no update was lost");
}

#[test]
fn leases_with_a_ttl_of_their_own_stay_lawful() {
    check_schedules(|| Stores::one(MemoryStore::new()));
}

#[test]
fn leases_on_sessions_stay_lawful() {
    check_schedules(|| Stores::one(MemoryStore::with_sessions(Clock::system())));
}

#[test]
fn leases_of_a_quorum_stay_lawful() {
    check_schedules(|| Stores::quorum(3));
}

#[test]
fn leases_of_a_quorum_whose_members_forget_stay_lawful() {
    check_schedules(|| Stores::quorum(3).forgetful());
}

#[test]
fn schedules_that_once_failed_stay_lawful() {
    let sessions = || Stores::one(MemoryStore::with_sessions(Clock::system()));
    // A lease was moved to another session than the one that its holder relied on.
    for seed in [1_500_203_307_265_195_755, 15_468_278_663_270_634_671] {
        run_schedule(sessions(), seed);
    }
    // A duplicate release took a vote of the same holder's next attempt.
    for seed in [263_482_651_582_979_545, 2_418_416_672_431_013_704] {
        run_schedule(Stores::quorum(3), seed);
    }
    for seed in [13_214_049_733_422_684_750, 11_888_731_574_986_417_156] {
        run_schedule(Stores::quorum(3).forgetful(), seed);
    }
}
