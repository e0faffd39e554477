//! [`MemorySession`]: a session of a [`MemoryStore`](super::MemoryStore).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use super::shared::Memory;
use crate::contract::{Claim, RenewalOutcome, Session};
use crate::kit::{Heartbeat, SessionBackend, SessionHandle};
use crate::sync::locked;
use crate::words::{Clock, Holder, LockName, Result};

/// A session that carries leases in memory.
pub(super) struct MemorySession {
    pub(super) session: Session,
    pub(super) id: u64,
}

/// State that the store keeps with each claim.
#[derive(Default)]
pub(super) struct ClaimState {
    /// The session that carries it.
    pub(super) session: Mutex<Option<Arc<MemorySession>>>,
    pub(super) wakeup: Arc<Notify>,
    pub(super) granted: AtomicBool,
}

impl SessionHandle for MemorySession {
    fn session(&self) -> &Session {
        &self.session
    }

    fn has_room(&self) -> bool {
        true
    }
}

#[async_trait]
impl SessionBackend for Memory {
    type Handle = MemorySession;
    type Entry = (LockName, Holder);

    fn session_ttl(&self, ttl: Duration) -> Duration {
        ttl
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<MemorySession>> {
        let pending = Session::start(&self.clock);
        let id = locked(&self.state).open_session(self.clock.now().after(ttl));
        Ok(Arc::new(MemorySession { session: pending.established(id, ttl), id }))
    }

    fn granted_entry(&self, handle: &Arc<MemorySession>, claim: &Claim) -> Option<Self::Entry> {
        let own = claim.store_state(ClaimState::default);
        let is_here = locked(&own.session).as_ref().is_some_and(|session| Arc::ptr_eq(session, handle));
        (is_here && own.granted.load(Ordering::Acquire)).then(|| (claim.name().clone(), claim.holder()))
    }

    async fn heartbeat(
        &self,
        handle: &Arc<MemorySession>,
        clock: &Clock,
        granted: Vec<(Claim, Self::Entry)>,
    ) -> Result<Heartbeat<Self::Entry>> {
        let since = clock.now();
        let mut state = locked(&self.state);
        if !state.extend_session(handle.id, self.clock.now(), handle.session.ttl()) {
            return Ok(Heartbeat::Gone);
        }
        let entries = Arc::new(state.entries(handle.id));
        Ok(Heartbeat::Alive { since, ttl: handle.session.ttl(), granted: Arc::new(granted), entries })
    }

    async fn confirm_lost(
        &self,
        _handle: &Arc<MemorySession>,
        missing: Vec<(Claim, &Self::Entry)>,
    ) -> Result<Vec<Claim>> {
        Ok(missing.into_iter().map(|(claim, _)| claim).collect())
    }

    async fn renew_single(&self, _: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        Ok(self.renew_lease(claim))
    }

    async fn delete_orphans(&self, handle: &Arc<MemorySession>, entries: &HashSet<Self::Entry>) -> Result<()> {
        let mut state = locked(&self.state);
        let owners: HashSet<Holder> = handle.session.claims().iter().map(Claim::holder).collect();
        let orphans = entries.iter().filter(|(_, holder)| !owners.contains(holder));
        orphans.for_each(|(name, holder)| state.delete_entry(name, *holder, handle.id));
        Ok(())
    }
}
