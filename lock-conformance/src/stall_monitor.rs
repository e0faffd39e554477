//! [`StallMonitor`]: measures stalls of the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Measures scheduling delays of this machine while a case runs. A failure during a delay that is
/// long compared to the TTL says nothing about the store.
pub(crate) struct StallMonitor {
    longest: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

/// Sleep between two measurements.
const TICK_INTERVAL: Duration = Duration::from_millis(5);

impl StallMonitor {
    pub(crate) fn start() -> StallMonitor {
        let stall = StallMonitor { longest: Arc::default(), stopped: Arc::default() };
        let (longest, over) = (stall.longest.clone(), stall.stopped.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let before = Instant::now();
                std::thread::sleep(TICK_INTERVAL);
                longest.fetch_max(before.elapsed().saturating_sub(TICK_INTERVAL).as_nanos() as u64, Ordering::Relaxed);
            }
        });
        stall
    }

    /// The longest time that a ready thread had to wait.
    pub(crate) fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }
}

impl Drop for StallMonitor {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}
