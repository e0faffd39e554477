//! [`Settings`]: how the locks of one store are used.

use std::time::Duration;

use crate::{Clock, Lock, LockGuard, Locks};

/// How the locks of one store are used; what [`Connect`](crate::Connect) and [`LocksBuilder`](crate::LocksBuilder) set.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) clock: Clock,
    pub(crate) call_timeout: Duration,
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
            call_timeout: Locks::DEFAULT_CALL_TIMEOUT,
            holder_text: String::new(),
            defaults: Defaults { ttl: Lock::<LockGuard>::DEFAULT_TTL, wait: None },
        }
    }
}
