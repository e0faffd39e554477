//! [`until`]: waiting on a condition.

use std::time::{Duration, Instant};

/// How long a test waits for what must happen: far more than it takes, since test machines are slow at times.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Waits until `look` gives something, and gives it.
///
/// # Panics
///
/// If it gives nothing within [`WAIT_TIMEOUT`]; `what` says what did not happen.
#[track_caller]
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
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
        let mut looks = 0;
        let found = until("the third look", || {
            looks += 1;
            (looks == 3).then_some("found")
        });
        assert_eq!(found, "found");
    }
}
