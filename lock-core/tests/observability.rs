//! What is told of leases: events, spans and, with the feature, metrics.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::*;
use tracing_subscriber::fmt::format::FmtSpan;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// One lease that is waited for, renewed, broken, lost, and one that is released.
async fn a_day_of_a_lock() {
    let locks = Locks::new(MemoryStore::new());
    let guard = locks.lock("report").ttl(9 * SECOND).acquire().await.unwrap();
    assert!(locks.lock("report").wait(Duration::ZERO).acquire().await.is_err());
    tokio::time::sleep(10 * SECOND).await;
    let seen = locks.inspect("report").await.unwrap().unwrap();
    locks.break_lock("report", &seen, Break::Now).await.unwrap();
    guard.lost().await;
    drop(guard);
    locks.lock("report").acquire().await.unwrap().release().await.unwrap();
    locks.close().await;
}

#[test]
fn every_step_of_a_lease_is_an_event_with_its_name() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(FmtSpan::NEW)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    tracing::subscriber::with_default(subscriber, || runtime.block_on(a_day_of_a_lock()));
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for told in [
        "acquired name=report",
        "waiting name=report",
        "contended name=report",
        "renewed held=1",
        "lost name=report",
        "released name=report",
    ] {
        assert!(log.contains(told), "no event {told:?} in\n{log}");
    }
    for span in ["acquire{name=report ttl=9s}", "renew{sessions=1}"] {
        assert!(log.contains(span), "no span {span:?} in\n{log}");
    }
    assert_eq!(log.matches("lost name=report").count(), 1, "a loss is told once\n{log}");
}

#[cfg(feature = "metrics")]
#[test]
fn every_step_of_a_lease_is_counted_without_its_name() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(a_day_of_a_lock()));
    let told: Vec<_> = recorder
        .snapshotter()
        .snapshot()
        .into_vec()
        .into_iter()
        .map(|(key, _, _, value)| (key.key().to_string(), value))
        .collect();
    for (metric, least) in [
        ("leasehold_acquired_total", 2),
        ("leasehold_contended_total", 1),
        ("leasehold_lost_total", 1),
        ("leasehold_released_total", 1),
        ("leasehold_renewal_rounds_total", 3),
    ] {
        let counted = told.iter().filter(|(key, _)| key.contains(metric)).map(|(_, value)| match value {
            metrics_util::debugging::DebugValue::Counter(count) => *count,
            other => panic!("{metric} is no counter: {other:?}"),
        });
        assert!(counted.sum::<u64>() >= least, "{metric} in {told:?}");
    }
    assert!(told.iter().any(|(key, _)| key.contains("leasehold_wait_seconds")), "{told:?}");
    assert!(told.iter().all(|(key, _)| !key.contains("report")), "{told:?}");
}
