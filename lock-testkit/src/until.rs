//! [`until`]: waits for a condition.

use std::time::{Duration, Instant};

/// Time limit for something that must happen: far more than it takes, since test machines are slow
/// at times.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Calls `poll` every 5 ms until it returns a value, and returns that value.
///
/// # Panics
///
/// If it returns none within [`WAIT_TIMEOUT`]. The message names `what`, the awaited condition.
#[track_caller]
pub fn until<T>(what: &str, mut poll: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = poll() {
            return found;
        }
        assert!(start.elapsed() < WAIT_TIMEOUT, "{what}: not within {WAIT_TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_given() {
        let mut polls = 0;
        let found = until("the third look", || {
            polls += 1;
            (polls == 3).then_some("found")
        });
        assert_eq!(found, "found");
    }
}
