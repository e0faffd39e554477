//! [`Sessions`]: the sessions of one process at one store, and their renewal.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;

use super::single_flight::SingleFlight;
use crate::contract::{Claim, Renewal, RenewalOutcome, Session};
use crate::sync::locked;
use crate::words::{Clock, LossReason, Moment, Result};

/// A store's side of a session: its id, its connection, and the core's [`Session`].
pub trait SessionHandle: Send + Sync + 'static {
    /// The core's side of the session.
    fn session(&self) -> &Session;

    /// True if the session can carry another lease. [`Sessions`] asks besides that it is valid for
    /// half of its TTL.
    fn has_room(&self) -> bool;
}

/// What a store does for its sessions: it opens them, confirms that they last, lists what they have
/// and deletes. The order of these is the protocol, and [`Sessions`] keeps it.
#[async_trait]
pub trait SessionBackend: Send + Sync + 'static {
    /// A session of this store.
    type Handle: SessionHandle;

    /// What a session has at the server for a claim: a key, a node, a holder.
    type Entry: Eq + Hash + Send + Sync + 'static;

    /// The TTL of the session that carries leases of this TTL.
    fn session_ttl(&self, ttl: Duration) -> Duration;

    /// Opens a session of this TTL. It runs in the background, once for all claims that wait for it.
    ///
    /// # Errors
    ///
    /// Any; all that wait for it get the error.
    async fn open(&self, ttl: Duration) -> Result<Arc<Self::Handle>>;

    /// The entry of a claim on this session that was granted; `None` if it was not, or is elsewhere.
    fn granted_entry(&self, handle: &Arc<Self::Handle>, claim: &Claim) -> Option<Self::Entry>;

    /// Confirms at the server that the session lasts, and *then* lists its entries. `granted` are
    /// the claims that were granted before this call; they are returned with the list, so that
    /// callers at the same time may share one heartbeat.
    ///
    /// # Errors
    ///
    /// Any: the session is then neither extended nor ended.
    async fn heartbeat(
        &self,
        handle: &Arc<Self::Handle>,
        clock: &Clock,
        granted: Vec<(Claim, Self::Entry)>,
    ) -> Result<Heartbeat<Self::Entry>>;

    /// Of these claims, whose entries were not in the list, those that are lost. A loss is final: a
    /// list that may lag is checked again.
    ///
    /// # Errors
    ///
    /// Any: the renewal stays unanswered.
    async fn confirm_lost(&self, handle: &Arc<Self::Handle>, missing: Vec<(Claim, &Self::Entry)>)
    -> Result<Vec<Claim>>;

    /// Deletes the listed entries that belong to none of [`Session::claims`] as they are by now.
    ///
    /// # Errors
    ///
    /// Any: the next round deletes what is left.
    async fn delete_orphans(&self, handle: &Arc<Self::Handle>, entries: &HashSet<Self::Entry>) -> Result<()>;
}

/// The outcome of a heartbeat.
#[derive(Debug)]
pub enum Heartbeat<E> {
    /// The session lasts.
    Alive {
        /// The session is kept for `ttl` from here on: read from the clock before the heartbeat was
        /// sent.
        since: Moment,
        /// The TTL at the server.
        ttl: Duration,
        /// The claims that were granted before the heartbeat was sent, with their entries.
        granted: Arc<Vec<(Claim, E)>>,
        /// The entries that the session had after it was confirmed.
        entries: Arc<HashSet<E>>,
    },
    /// The server has ended the session.
    Gone,
}

/// The sessions of one process at one store: one for each TTL, opened when a claim needs it and
/// renewed while it carries claims.
pub struct Sessions<B: SessionBackend> {
    by_ttl: Mutex<HashMap<Duration, Arc<PoolSlot<B::Handle>>>>,
    handles: Mutex<HashMap<Session, Arc<B::Handle>>>,
}

struct PoolSlot<H> {
    current: Mutex<Option<Arc<H>>>,
    opening: SingleFlight<Arc<H>>,
}

impl<B: SessionBackend> Sessions<B> {
    /// No sessions yet.
    pub fn new() -> Sessions<B> {
        Sessions { by_ttl: Mutex::default(), handles: Mutex::default() }
    }

    /// The session for leases of this TTL; a new one if there is none with room and half of its TTL
    /// left.
    ///
    /// # Errors
    ///
    /// Those of [`SessionBackend::open`].
    ///
    /// # Cancel safety
    ///
    /// A session that is being opened is there for the next caller.
    pub async fn for_ttl(self: &Arc<Self>, backend: &Arc<B>, ttl: Duration) -> Result<Arc<B::Handle>> {
        let ttl = backend.session_ttl(ttl);
        let slot = locked(&self.by_ttl).entry(ttl).or_default().clone();
        if let Some(handle) = slot.usable() {
            return Ok(handle);
        }
        let open = || {
            let (sessions, backend, slot) = (self.clone(), backend.clone(), slot.clone());
            async move {
                // The one that was in flight just before may have brought it.
                if let Some(handle) = slot.usable() {
                    return Ok(handle);
                }
                let handle = backend.open(ttl).await?;
                sessions.add(&handle);
                *locked(&slot.current) = Some(handle.clone());
                Ok(handle)
            }
        };
        // Boxed, so that the future of a request on a session that is open stays small.
        Box::pin(slot.opening.run(open)).await
    }

    /// The store's side of a session.
    pub fn find(&self, session: &Session) -> Option<Arc<B::Handle>> {
        locked(&self.handles).get(session).cloned()
    }

    /// Answers the renewal of a session. The order is the protocol:
    ///
    /// 1. List the claims that were granted: what is granted during the heartbeat may be missing in
    ///    what it lists.
    /// 2. Confirm that the session lasts, and list its entries.
    /// 3. Report the listed claims whose entries are gone.
    /// 4. Answer. Before the third step this would extend the belief in a lease that was broken.
    /// 5. Delete what belongs to none of its claims as they are by then.
    ///
    /// # Errors
    ///
    /// Those of the backend; the renewal is then unanswered unless the fourth step was done.
    ///
    /// # Cancel safety
    ///
    /// What was reported and answered stands.
    pub async fn renew(&self, backend: &B, clock: &Clock, renewal: &Renewal, session: &Session) -> Result<()> {
        let Some(handle) = self.find(session) else {
            renewal.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        let listed = |claim: Claim| backend.granted_entry(&handle, &claim).map(|entry| (claim, entry));
        let granted = session.claims().into_iter().filter_map(listed).collect();
        let Heartbeat::Alive { since, ttl, granted, entries } = backend.heartbeat(&handle, clock, granted).await?
        else {
            session.end(LossReason::SessionEnded);
            renewal.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        let missing = granted.iter().filter(|(_, entry)| !entries.contains(entry));
        let missing: Vec<_> = missing.map(|(claim, entry)| (claim.clone(), entry)).collect();
        if !missing.is_empty() {
            let lost = backend.confirm_lost(&handle, missing).await?;
            lost.iter().for_each(|claim| renewal.not_held(claim));
        }
        renewal.answer(RenewalOutcome::HeldSince(since, ttl));
        backend.delete_orphans(&handle, &entries).await
    }

    /// Ends every session and forgets it: for a store that learns that its server, or its server's
    /// data, is another one.
    pub fn end_all(&self, why: LossReason) {
        locked(&self.by_ttl).clear();
        let handles = std::mem::take(&mut *locked(&self.handles));
        handles.into_keys().for_each(|session| session.end(why));
    }

    fn add(&self, handle: &Arc<B::Handle>) {
        let mut handles = locked(&self.handles);
        handles.retain(|session, _| session.is_valid());
        handles.insert(handle.session().clone(), handle.clone());
    }
}

impl<H: SessionHandle> PoolSlot<H> {
    fn usable(&self) -> Option<Arc<H>> {
        let is_usable = |handle: &Arc<H>| {
            let session = handle.session();
            session.is_valid() && session.remaining() > session.ttl() / 2 && handle.has_room()
        };
        locked(&self.current).clone().filter(is_usable)
    }
}

impl<H> Default for PoolSlot<H> {
    fn default() -> PoolSlot<H> {
        PoolSlot { current: Mutex::new(None), opening: SingleFlight::default() }
    }
}

impl<B: SessionBackend> Default for Sessions<B> {
    fn default() -> Sessions<B> {
        Sessions::new()
    }
}

impl<B: SessionBackend> fmt::Debug for Sessions<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("open", &locked(&self.handles).len()).finish_non_exhaustive()
    }
}
