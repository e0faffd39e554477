//! [`Settings`] of the locks of one store.

use std::time::Duration;

use crate::words::Clock;

/// 30 seconds, the value of Redisson's watchdog.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(30);
pub(crate) const DEFAULT_CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Settings of the locks of one store; [`Connect`](crate::Connect) and
/// [`LocksBuilder`](crate::LocksBuilder) set them.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    /// If it is not set, the default, or longer if the time-outs in the store's URL require it.
    pub(crate) call_timeout: Option<Duration>,
    pub(crate) holder_text: String,
    pub(crate) defaults: Defaults,
}

/// Settings of a lock that sets none.
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
