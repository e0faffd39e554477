//! Events and spans of leases. It is a program of its own, since tracing caches for the whole
//! process which events have no listener.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod day;

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing_subscriber::fmt::format::FmtSpan;

use crate::day::a_day_of_a_lock;

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
    for event in [
        "acquired name=report",
        "waiting name=report",
        "contended name=report",
        "renewed held=1",
        "lost name=report",
        "released name=report",
    ] {
        assert!(log.contains(event), "no event {event:?} in\n{log}");
    }
    for span in ["acquire{name=report ttl=9s}", "renew{sessions=1}"] {
        assert!(log.contains(span), "no span {span:?} in\n{log}");
    }
    assert_eq!(log.matches("lost name=report").count(), 1, "a loss is told once\n{log}");
}
