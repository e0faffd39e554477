//! [`Sessions`]: the sessions of one process at one store, and their renewal.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join, join_all};

use super::single_flight::SingleFlight;
use crate::contract::{Claim, Renewal, RenewalBatch, RenewalOutcome, Session};
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

    /// Renews a lease that no shared session carries: one with a TTL of its own, or a fixed one on a
    /// session of its own.
    ///
    /// # Errors
    ///
    /// Any: the renewal stays unanswered.
    async fn renew_single(&self, clock: &Clock, claim: &Claim) -> Result<RenewalOutcome>;

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
/// renewed while it carries claims. Cloning gives the same sessions.
pub struct Sessions<B: SessionBackend>(Arc<Inner<B::Handle>>);

struct Inner<H> {
    by_ttl: Mutex<HashMap<Duration, Arc<PoolSlot<H>>>>,
    handles: Mutex<HashMap<Session, Arc<H>>>,
}

struct PoolSlot<H> {
    current: Mutex<Option<Arc<H>>>,
    opening: SingleFlight<Arc<H>>,
}

impl<B: SessionBackend> Sessions<B> {
    /// No sessions yet.
    pub fn new() -> Sessions<B> {
        Sessions(Arc::new(Inner { by_ttl: Mutex::default(), handles: Mutex::default() }))
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
    pub async fn for_ttl(&self, backend: &Arc<B>, ttl: Duration) -> Result<Arc<B::Handle>> {
        let ttl = backend.session_ttl(ttl);
        let slot = locked(&self.0.by_ttl).entry(ttl).or_default().clone();
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
        locked(&self.0.handles).get(session).cloned()
    }

    /// Renews a batch, all entries at the same time: one that gets no answer must not delay the
    /// others.
    ///
    /// # Errors
    ///
    /// The first of the backend's; the entries that it concerns are unanswered.
    ///
    /// # Cancel safety
    ///
    /// What was reported and answered stands.
    pub async fn renew_batch(&self, backend: &B, batch: &RenewalBatch) -> Result<()> {
        let leases = batch.leases().map(|(renewal, claim)| async move {
            renewal.answer(backend.renew_single(batch.clock(), claim).await?);
            Ok(())
        });
        let renew_session = |(renewal, session)| self.renew(backend, batch.clock(), renewal, session);
        let sessions = batch.sessions().map(renew_session);
        let (leases, sessions) = join(join_all(leases), join_all(sessions)).await;
        leases.into_iter().chain(sessions).collect()
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
    /// After an error of the backend the renewal is unanswered, unless the fourth step was done.
    async fn renew(&self, backend: &B, clock: &Clock, renewal: &Renewal, session: &Session) -> Result<()> {
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
        locked(&self.0.by_ttl).clear();
        let ended: Vec<_> = locked(&self.0.handles).drain().map(|(session, _)| session).collect();
        ended.iter().for_each(|session| session.end(why));
    }

    fn add(&self, handle: &Arc<B::Handle>) {
        let mut handles = locked(&self.0.handles);
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

impl<B: SessionBackend> Clone for Sessions<B> {
    fn clone(&self) -> Sessions<B> {
        Sessions(self.0.clone())
    }
}

impl<B: SessionBackend> Default for Sessions<B> {
    fn default() -> Sessions<B> {
        Sessions::new()
    }
}

impl<B: SessionBackend> fmt::Debug for Sessions<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("open", &locked(&self.0.handles).len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use super::*;
    use crate::contract::RenewalBatch;
    use crate::words::{Holder, LockName};

    /// A server in memory, and what was done to it, in order.
    struct Recorder {
        clock: Clock,
        entries: Mutex<HashSet<Holder>>,
        log: Mutex<Vec<String>>,
        opened: AtomicUsize,
        has_ended: AtomicBool,
        /// The session whose heartbeats bring no answer.
        silent: Mutex<Option<Session>>,
    }

    struct Handle(Session);

    impl SessionHandle for Handle {
        fn session(&self) -> &Session {
            &self.0
        }

        fn has_room(&self) -> bool {
            true
        }
    }

    #[async_trait]
    impl SessionBackend for Recorder {
        type Handle = Handle;
        type Entry = Holder;

        fn session_ttl(&self, ttl: Duration) -> Duration {
            ttl
        }

        async fn open(&self, ttl: Duration) -> Result<Arc<Handle>> {
            let pending = Session::start(&self.clock);
            tokio::time::sleep(Duration::from_millis(10)).await;
            let number = self.opened.fetch_add(1, Ordering::SeqCst) + 1;
            Ok(Arc::new(Handle(pending.established(number as u64, ttl))))
        }

        fn granted_entry(&self, _: &Arc<Handle>, claim: &Claim) -> Option<Holder> {
            self.log("list");
            Some(claim.holder())
        }

        async fn heartbeat(
            &self,
            handle: &Arc<Handle>,
            clock: &Clock,
            granted: Vec<(Claim, Holder)>,
        ) -> Result<Heartbeat<Holder>> {
            self.log("heartbeat");
            if locked(&self.silent).as_ref() == Some(&handle.0) {
                std::future::pending::<()>().await;
            }
            if self.has_ended.load(Ordering::SeqCst) {
                return Ok(Heartbeat::Gone);
            }
            let entries = Arc::new(locked(&self.entries).clone());
            Ok(Heartbeat::Alive { since: clock.now(), ttl: handle.0.ttl(), granted: Arc::new(granted), entries })
        }

        async fn confirm_lost(&self, handle: &Arc<Handle>, missing: Vec<(Claim, &Holder)>) -> Result<Vec<Claim>> {
            self.log(&format!("confirm, {} left", handle.0.remaining().as_secs()));
            Ok(missing.into_iter().map(|(claim, _)| claim).collect())
        }

        async fn renew_single(&self, _: &Clock, _: &Claim) -> Result<RenewalOutcome> {
            Ok(RenewalOutcome::NotHeld)
        }

        async fn delete_orphans(&self, handle: &Arc<Handle>, entries: &HashSet<Holder>) -> Result<()> {
            let claims: Vec<_> = handle.0.claims().iter().map(Claim::holder).collect();
            let orphans = entries.iter().filter(|entry| !claims.contains(entry)).count();
            self.log(&format!("delete {orphans}, {} left", handle.0.remaining().as_secs()));
            Ok(())
        }
    }

    impl Recorder {
        fn new() -> Arc<Recorder> {
            Arc::new(Recorder {
                clock: Clock::system().with_margin(Duration::ZERO),
                entries: Mutex::default(),
                log: Mutex::default(),
                opened: AtomicUsize::new(0),
                has_ended: AtomicBool::new(false),
                silent: Mutex::default(),
            })
        }

        fn log(&self, what: &str) {
            locked(&self.log).push(what.to_owned());
        }
    }

    const TTL: Duration = Duration::from_secs(30);

    fn claim() -> Claim {
        Claim::new(LockName::new("job").expect("a name"), TTL)
    }

    async fn renew(sessions: &Sessions<Recorder>, server: &Arc<Recorder>, session: &Session) {
        let batch = RenewalBatch::of_sessions(&server.clock, [session.clone()]);
        sessions.renew_batch(&**server, &batch).await.expect("an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn losses_are_reported_before_the_answer_and_orphans_are_deleted_after_it() {
        let (server, sessions) = (Recorder::new(), Sessions::new());
        let handle = sessions.for_ttl(&server, TTL).await.expect("a session");
        let (held, broken, orphan) = (claim(), claim(), Holder::fresh());
        handle.0.carry(&held);
        handle.0.carry(&broken);
        locked(&server.entries).extend([held.holder(), orphan]);
        tokio::time::sleep(Duration::from_secs(10)).await;
        renew(&sessions, &server, &handle.0).await;
        let expected = ["list", "list", "heartbeat", "confirm, 19 left", "delete 1, 30 left"];
        assert_eq!(*locked(&server.log), expected);
        assert_eq!(broken.deadline().ended_by(), Some(LossReason::NotHeld));
        assert!(!held.deadline().is_over());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_the_server_ended_is_lost_with_all_its_claims() {
        let (server, sessions) = (Recorder::new(), Sessions::new());
        let handle = sessions.for_ttl(&server, TTL).await.expect("a session");
        handle.0.carry(&claim());
        server.has_ended.store(true, Ordering::SeqCst);
        renew(&sessions, &server, &handle.0).await;
        assert!(!handle.0.is_valid());
        let next = sessions.for_ttl(&server, TTL).await.expect("another session");
        assert_ne!(next.0, handle.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_without_an_answer_delays_no_other() {
        let (server, sessions) = (Recorder::new(), Sessions::new());
        let silent = sessions.for_ttl(&server, TTL).await.expect("a session");
        let other = sessions.for_ttl(&server, TTL * 2).await.expect("a session");
        *locked(&server.silent) = Some(silent.0.clone());
        let batch = RenewalBatch::of_sessions(&server.clock, [silent.0.clone(), other.0.clone()]);
        let renewed = tokio::time::timeout(TTL, sessions.renew_batch(&*server, &batch)).await;
        assert!(renewed.is_err(), "it waits for the silent one");
        let answered: Vec<_> = batch.iter().map(|entry| entry.outcome().is_some()).collect();
        assert_eq!(answered, [false, true]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_opened_once_for_all_that_wait_and_again_when_half_of_it_is_over() {
        let (server, sessions) = (Recorder::new(), Sessions::new());
        let (one, other) = tokio::join!(sessions.for_ttl(&server, TTL), sessions.for_ttl(&server, TTL));
        assert_eq!(one.expect("a session").0, other.expect("a session").0);
        assert_eq!(server.opened.load(Ordering::SeqCst), 1);
        tokio::time::sleep(TTL / 2).await;
        sessions.for_ttl(&server, TTL).await.expect("a session");
        assert_eq!(server.opened.load(Ordering::SeqCst), 2);
    }
}
