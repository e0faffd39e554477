//! Metrics of leases.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod day;

use crate::day::a_day_of_a_lock;

#[test]
fn every_step_of_a_lease_is_counted_without_its_name() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    metrics::with_local_recorder(&recorder, || runtime.block_on(a_day_of_a_lock()));
    let recorded: Vec<_> = recorder
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
        let counted = recorded.iter().filter(|(key, _)| key.contains(metric)).map(|(_, value)| match value {
            metrics_util::debugging::DebugValue::Counter(count) => *count,
            other => panic!("{metric} is no counter: {other:?}"),
        });
        assert!(counted.sum::<u64>() >= least, "{metric} in {recorded:?}");
    }
    assert!(recorded.iter().any(|(key, _)| key.contains("leasehold_wait_seconds")), "{recorded:?}");
    assert!(recorded.iter().all(|(key, _)| !key.contains("report")), "{recorded:?}");
}
