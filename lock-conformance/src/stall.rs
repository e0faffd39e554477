//! [`Stall`]: notices that the machine, and not the store, was slow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Measures how long this machine kept a ready thread waiting while a case ran: a failure under a stall that is long
/// against the TTL says nothing of the store.
pub(crate) struct Stall {
    longest: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

const TICK: Duration = Duration::from_millis(5);

impl Stall {
    pub(crate) fn watch() -> Stall {
        let stall = Stall { longest: Arc::default(), over: Arc::default() };
        let (longest, over) = (stall.longest.clone(), stall.over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(TICK);
                longest.fetch_max(before.elapsed().saturating_sub(TICK).as_nanos() as u64, Ordering::Relaxed);
            }
        });
        stall
    }

    /// The longest that a thread which was ready had to wait.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
