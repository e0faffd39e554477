//! [`Round`]: one renewal round of a session.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use lock_core::{Claim, Clock, Moment, runtime};

use crate::error::{CallError, judge};
use crate::gate::session_is_over;
use crate::heartbeat::Beaten;
use crate::place::Notes;
use crate::session::{Carrier, locked};

/// What one renewal round of a session brought: heartbeats, and a look at what is still on it.
pub(crate) struct Round {
    /// The claims that were granted a lease on it when the round began, with the paths of their nodes.
    pub(crate) granted: Vec<(Claim, String)>,
    /// Since when the session lasts, and the nodes that are on it; `None` if it has ended.
    pub(crate) stands: Option<(Moment, HashSet<String>)>,
    is_tidied: AtomicBool,
}

/// A round that is under way.
pub(crate) type UnderWay = Shared<BoxFuture<'static, Result<Arc<Round>, CallError>>>;

impl Round {
    /// Whether the rest is to be done by who asks: what the round shows has to be tidied up once.
    pub(crate) fn is_to_be_tidied(&self) -> bool {
        !self.is_tidied.swap(true, Ordering::AcqRel)
    }
}

impl Carrier {
    /// One round. It is made in the background, and who asks while one is under way waits for that one: a second would
    /// only make both slower.
    pub(crate) async fn round(self: &Arc<Self>, clock: &Clock, base: &str) -> Result<Arc<Round>, CallError> {
        let background = runtime::background()?;
        let round = {
            let mut under_way = locked(&self.under_way);
            match under_way.as_ref() {
                Some(round) => round.clone(),
                None => {
                    let made = background.spawn(Making(self.clone()).make(clock.clone(), base.to_owned()));
                    let round = async move { made.await.unwrap_or_else(|_| Err(session_is_over())) };
                    under_way.insert(round.boxed().shared()).clone()
                }
            }
        };
        round.await
    }

    /// The claims that were granted a lease on this session, with the paths of their nodes.
    fn granted(self: &Arc<Self>) -> Vec<(Claim, String)> {
        let own = |claim: Claim| {
            let place = Notes::of(&claim).place()?;
            let own = place.own().filter(|_| place.granted && Arc::ptr_eq(&place.carrier, self))?;
            Some((claim, own))
        };
        self.session().map(|session| session.claims().into_iter().filter_map(own).collect()).unwrap_or_default()
    }
}

/// The carrier whose round is being made; after that none is.
struct Making(Arc<Carrier>);

impl Making {
    async fn make(self, clock: Clock, base: String) -> Result<Arc<Round>, CallError> {
        // Before the reading: a claim that is granted during it may be missing there.
        let granted = self.0.granted();
        let stands = match self.beat_and_look(&clock, &base).await {
            Err(failed) if failed.session_is_gone => None,
            looked => looked?,
        };
        Ok(Arc::new(Round { granted, stands, is_tidied: AtomicBool::new(false) }))
    }

    async fn beat_and_look(&self, clock: &Clock, base: &str) -> Result<Option<(Moment, HashSet<String>)>, CallError> {
        let Beaten::Since(since) = self.0.beat(clock, None).await? else { return Ok(None) };
        // A server has applied a write before it answers it, and serves no session with an older state than the session
        // has seen: so this sees at least what the last heartbeat saw, without another `sync`.
        let nodes = self.0.wire().client()?.list_ephemerals(base).await;
        let nodes = nodes.map_err(|failure| judge("reading what a session has", failure, false))?;
        Ok(Some((since, nodes.into_iter().collect())))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        locked(&self.0.under_way).take();
    }
}
