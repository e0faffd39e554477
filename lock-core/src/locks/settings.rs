//! [`Settings`]: how the locks of one store are used.

use std::time::Duration;

use crate::words::Clock;

/// 30 seconds, as Redisson's watchdog has it.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(30);
pub(crate) const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// How the locks of one store are used; what [`Connect`](crate::Connect) and [`LocksBuilder`](crate::LocksBuilder) set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    /// Unless set, the default, or as much longer as the store's own limits ask for.
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) holder_text: String,
    pub(crate) defaults: Defaults,
}

/// What a lock has that sets nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) ttl: Duration,
    pub(crate) wait: Option<Duration>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            clock: Clock::system(),
            call_timeout: None,
            holder_text: String::new(),
            defaults: Defaults { ttl: DEFAULT_TTL, wait: None },
        }
    }
}
