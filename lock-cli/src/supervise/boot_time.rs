//! The clock that the supervisor and the watchdog share.

/// Nanoseconds since the machine was started, suspended time among them: the same in all processes,
/// and never stepped.
pub(crate) fn now() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let time = rustix::time::clock_gettime(clock);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The time until then; zero if it has passed.
pub(crate) fn until(then: u64) -> std::time::Duration {
    std::time::Duration::from_nanos(then.saturating_sub(now()))
}
