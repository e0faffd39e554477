//! A day in the life of a lock, for the tests of events and of metrics.

use std::time::Duration;

use lock_core::*;

const SECOND: Duration = Duration::from_secs(1);

/// One lease that has a waiter, is renewed, broken and lost, and one that is released.
pub(crate) async fn a_day_of_a_lock() {
    let locks = Locks::new(MemoryStore::new());
    let guard = locks.lock("report").ttl(9 * SECOND).acquire().await.unwrap();
    assert!(locks.lock("report").wait(Duration::ZERO).acquire().await.is_err());
    tokio::time::sleep(10 * SECOND).await;
    let seen = locks.inspect("report").await.unwrap().pop().unwrap();
    locks.break_lock("report", &seen, BreakMode::Now).await.unwrap();
    guard.lost().await;
    drop(guard);
    locks.lock("report").acquire().await.unwrap().release().await.unwrap();
    locks.close().await;
}
