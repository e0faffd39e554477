//! [`RenewalRound`]: one renewal round of a session.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use lock_core::{Claim, Clock, Moment, runtime};

use crate::entry::ClaimState;
use crate::error::{CallError, classify};
use crate::heartbeat::HeartbeatOutcome;
use crate::limit::session_ended;
use crate::session::{ZkSession, locked};

/// What one renewal round of a session brought: heartbeats, and a look at what is still on it.
pub(crate) struct RenewalRound {
    /// The claims that were granted a lease on it when the round began, with the paths of their nodes.
    pub(crate) granted: Vec<(Claim, String)>,
    /// Since when the session lasts, and the nodes that are on it; `None` if it has ended.
    pub(crate) alive: Option<(Moment, HashSet<String>)>,
    is_cleanup_started: AtomicBool,
}

/// A round that is under way.
pub(crate) type InFlightRound = Shared<BoxFuture<'static, Result<Arc<RenewalRound>, CallError>>>;

impl RenewalRound {
    /// Whether the rest is to be done by who asks: what the round shows has to be tidied up once.
    pub(crate) fn start_cleanup(&self) -> bool {
        !self.is_cleanup_started.swap(true, Ordering::AcqRel)
    }
}

impl ZkSession {
    /// One round. It is task in the background, and who asks while one is under way waits for that one: a second would
    /// only make both slower.
    pub(crate) async fn round(self: &Arc<Self>, clock: &Clock, base: &str) -> Result<Arc<RenewalRound>, CallError> {
        let background = runtime::background()?;
        let round = {
            let mut in_flight = locked(&self.round);
            match in_flight.as_ref() {
                Some(round) => round.clone(),
                None => {
                    let task = background.spawn(RoundInFlight(self.clone()).make(clock.clone(), base.to_owned()));
                    let round = async move { task.await.unwrap_or_else(|_| Err(session_ended())) };
                    in_flight.insert(round.boxed().shared()).clone()
                }
            }
        };
        round.await
    }

    /// The claims that were granted a lease on this session, with the paths of their nodes.
    fn granted(self: &Arc<Self>) -> Vec<(Claim, String)> {
        let own = |claim: Claim| {
            let entry = ClaimState::of(&claim).entry()?;
            let own = entry.own().filter(|_| entry.granted && Arc::ptr_eq(&entry.zk_session, self))?;
            Some((claim, own))
        };
        self.core_session().map(|session| session.claims().into_iter().filter_map(own).collect()).unwrap_or_default()
    }
}

/// The carrier whose round is being task; after that none is.
struct RoundInFlight(Arc<ZkSession>);

impl RoundInFlight {
    async fn make(self, clock: Clock, base: String) -> Result<Arc<RenewalRound>, CallError> {
        // Before the reading: a claim that is granted during it may be missing there.
        let granted = self.0.granted();
        let alive = match self.heartbeat_and_list(&clock, &base).await {
            Err(failed) if failed.session_is_gone => None,
            alive => alive?,
        };
        Ok(Arc::new(RenewalRound { granted, alive, is_cleanup_started: AtomicBool::new(false) }))
    }

    async fn heartbeat_and_list(
        &self,
        clock: &Clock,
        base: &str,
    ) -> Result<Option<(Moment, HashSet<String>)>, CallError> {
        let HeartbeatOutcome::AliveSince(since) = self.0.heartbeat(clock, None).await? else { return Ok(None) };
        // A server has applied a write before it answers it, and serves no session with an older state than the session
        // has seen: so this sees at least what the last heartbeat saw, without another `sync`.
        let nodes = self.0.client().client()?.list_ephemerals(base).await;
        let nodes = nodes.map_err(|failure| classify("reading what a session has", failure, false))?;
        Ok(Some((since, nodes.into_iter().collect())))
    }
}

impl Drop for RoundInFlight {
    fn drop(&mut self) {
        locked(&self.0.round).take();
    }
}
