//! [`RenewalRound`]: the result of one renewal round of a session.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_core::{Claim, Moment};

use crate::error::CallError;
use crate::sync::SharedFuture;

/// The result of one renewal round of a session: its heartbeats, and a read of the nodes that are
/// still on it.
pub(crate) struct RenewalRound {
    /// The claims that had a lease on the session when the round began, with the paths of their
    /// nodes.
    pub(crate) granted: Vec<(Claim, String)>,
    /// `None` if the session has ended.
    pub(crate) alive: Option<AliveSession>,
    is_cleanup_started: AtomicBool,
}

/// The state of a session that lasts.
pub(crate) struct AliveSession {
    /// The session lasts for its TTL from this moment.
    pub(crate) since: Moment,
    /// The paths of its nodes.
    pub(crate) nodes: HashSet<String>,
}

/// A round in flight, for all that wait for it.
pub(crate) type InFlightRound = SharedFuture<Result<Arc<RenewalRound>, CallError>>;

impl RenewalRound {
    pub(crate) fn new(granted: Vec<(Claim, String)>, alive: Option<AliveSession>) -> RenewalRound {
        RenewalRound { granted, alive, is_cleanup_started: AtomicBool::new(false) }
    }

    /// `true` for the first caller, which does the clean-up that the round calls for.
    pub(crate) fn start_cleanup(&self) -> bool {
        !self.is_cleanup_started.swap(true, Ordering::AcqRel)
    }
}
