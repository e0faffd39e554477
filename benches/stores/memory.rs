//! The cost of the core: the store in memory answers at once.

use std::hint::black_box;
use std::time::Instant;

use leasehold::{Locks, MemoryStore};

use crate::locks::{HELD, own_names};
use crate::measure::median;

/// Number of measurements of a cost that is compared with nothing.
const MEASUREMENTS: usize = 11;

pub(crate) async fn run() {
    let locks = Locks::new(MemoryStore::new());
    cost("acquire and release", &locks).await;
    let mut held = Vec::with_capacity(HELD);
    for number in 0..HELD {
        held.push(locks.lock(format!("held {number}")).acquire().await.expect("it is free"));
    }
    cost(&format!("the same beside {HELD} held locks"), &locks).await;
    const CHECKS: u32 = 10_000_000;
    let (validity, started) = (held[0].validity(), Instant::now());
    (0..CHECKS).for_each(|_| _ = black_box(validity.is_valid()));
    println!("  asking a guard if it is valid: {:.1} ns", started.elapsed().as_secs_f64() * 1e9 / f64::from(CHECKS));
}

async fn cost(what: &str, locks: &Locks) {
    let mut rates = Vec::new();
    for _ in 0..MEASUREMENTS {
        rates.push(own_names(locks, 1).await);
    }
    println!("  {what}: {:.2} µs", 1e6 / median(rates));
}
