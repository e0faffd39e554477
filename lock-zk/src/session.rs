//! [`Carrier`], a session of ZooKeeper that carries leases; [`Sessions`], those of this process.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::FutureExt as _;
use lock_core::{Clock, Error, ErrorKind, HeldBy, LossReason, Moment, Result, Session, runtime};
use zookeeper_client::{Acls, Client, CreateMode, StateWatcher};

use crate::emptied::Emptied;
use crate::error::{CallError, judge};
use crate::heartbeat::Beats;
use crate::link::{Coming, Link, Links, is_alive};
use crate::looks::Looks;
use crate::realm;
use crate::round::UnderWay;
use crate::wire::Wire;

/// A session of ZooKeeper that carries leases of one TTL, or one fixed lease.
pub(crate) struct Carrier {
    pub(crate) end: End,
    pub(crate) ttl: Duration,
    /// ZooKeeper's number of it.
    pub(crate) id: i64,
    /// A node of the session's own, on which its heartbeats are written.
    pub(crate) own: String,
    pub(crate) beats: Beats,
    /// The renewal round that is made just now.
    pub(crate) under_way: Mutex<Option<UnderWay>>,
    /// What is said of those who hold a lock on this session, by the paths of their nodes: their waiters of the same process
    /// need not read it.
    pub(crate) holders: Mutex<HashMap<String, HeldBy>>,
    pub(crate) emptied: Emptied,
    pub(crate) looks: Looks,
    /// Closed when the session is over: then the client ends it at the server as well, and its nodes with it.
    wire: Wire,
}

/// What says that a session is over.
pub(crate) enum End {
    /// The core, which renews it and tells its guards.
    Shared(Session),
    /// The moment until which its only lease may be believed in.
    Alone(Mutex<Moment>),
}

/// The sessions of this process that carry the renewed leases, one for each TTL.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Inner>);

struct Inner {
    links: Links,
    tick: Duration,
    /// Below it each session has a node of its own.
    folder: String,
    acls: Acls<'static>,
    by_ttl: Mutex<HashMap<Duration, Coming<Arc<Carrier>>>>,
    by_key: Mutex<HashMap<u64, Weak<Carrier>>>,
    /// The greatest transaction that any session has told of.
    latest: AtomicI64,
}

/// How many ticks a session lasts at least. Its heartbeats tell the state of a tick ago.
const LEAST_TICKS: u32 = 4;

impl Sessions {
    pub(crate) fn new(links: Links, tick: Duration, folder: String, acls: Acls<'static>) -> Sessions {
        let (by_ttl, by_key, latest) = Default::default();
        Sessions(Arc::new(Inner { links, tick, folder, acls, by_ttl, by_key, latest }))
    }

    pub(crate) fn tick(&self) -> Duration {
        self.0.tick
    }

    /// The shortest TTL that a lease gets.
    pub(crate) fn shortest(&self) -> Duration {
        self.0.tick * LEAST_TICKS
    }

    /// The session for leases of this TTL; a new one if there is none, or too little of it remains.
    pub(crate) async fn for_ttl(&self, ttl: Duration) -> Result<Arc<Carrier>> {
        let ttl = ttl.max(self.shortest());
        let coming = {
            let mut by_ttl = locked(&self.0.by_ttl);
            match by_ttl.get(&ttl).map(|coming| (coming, coming.peek())) {
                Some((_, Some(Ok(carrier)))) if carrier.is_usable() => return Ok(carrier.clone()),
                Some((coming, None)) => coming.clone(),
                _ => {
                    let sessions = self.clone();
                    let opening = async move { sessions.open(ttl, false).await };
                    let coming = opening.boxed().shared();
                    by_ttl.insert(ttl, coming.clone());
                    coming
                }
            }
        };
        coming.await
    }

    /// A session for one fixed lease.
    pub(crate) async fn alone(&self, ttl: Duration) -> Result<Arc<Carrier>> {
        self.open(ttl.max(self.shortest()), true).await
    }

    /// The carrier of this session.
    pub(crate) fn of(&self, session: &Session) -> Option<Arc<Carrier>> {
        locked(&self.0.by_key).get(&session.key()).and_then(Weak::upgrade)
    }

    /// A session has told of this transaction.
    pub(crate) fn saw(&self, transaction: i64) {
        self.0.latest.fetch_max(transaction, Ordering::AcqRel);
    }

    async fn open(&self, wanted: Duration, alone: bool) -> Result<Arc<Carrier>> {
        let sessions = self.clone();
        self.0.links.open_and(wanted, move |link| async move { sessions.carrier(link, alone).await }).await
    }

    /// Makes a carrier of a session that was just opened.
    async fn carrier(&self, link: Link, alone: bool) -> Result<Arc<Carrier>, CallError> {
        if link.ttl < self.shortest() {
            let text = format!(
                "ZooKeeper grants a session of {:?}, and a lease needs {:?}, four of its ticks: raise its maxSessionTimeout",
                link.ttl,
                self.shortest()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text).into());
        }
        let clock = self.0.links.clock();
        let id = link.client.session_id().0;
        let session = link.opening.established(id as u64, link.ttl);
        let end = if alone {
            let until = clock.now().after(session.remaining());
            End::Alone(Mutex::new(until))
        } else {
            End::Shared(session)
        };
        let own = format!("{}/{id:016x}", self.0.folder);
        let states = link.client.state_watcher();
        let carrier = Arc::new(Carrier {
            end,
            ttl: link.ttl,
            id,
            own,
            beats: Beats::new(self.0.tick),
            under_way: Mutex::default(),
            holders: Mutex::default(),
            emptied: Emptied::default(),
            looks: Looks::default(),
            wire: Wire::new(link.client),
        });
        // Before anything is on it: whatever becomes of this call, the session ends.
        runtime::background()?.spawn(end_in_time(Arc::downgrade(&carrier), states, clock.clone()));
        // Each transaction is greater than all that were told of before it was asked for; else the data are others.
        let before = self.0.latest.load(Ordering::Acquire);
        let made = carrier.make_own(clock, &self.0.folder, self.0.acls).await?;
        if made <= before {
            carrier.end(clock);
            return Err(realm::older().into());
        }
        self.saw(made);
        if let End::Shared(session) = &carrier.end {
            let mut by_key = locked(&self.0.by_key);
            by_key.retain(|_, carrier| carrier.strong_count() > 0);
            by_key.insert(session.key(), Arc::downgrade(&carrier));
        }
        Ok(carrier)
    }
}

/// Ends a session at the server when it is over here: its client would keep it alive for ever. And when the server says
/// that it has ended, tells its guards at once.
async fn end_in_time(carrier: Weak<Carrier>, mut states: StateWatcher, clock: Clock) {
    loop {
        let Some(ends) = carrier.upgrade().map(|carrier| carrier.ends(&clock)) else { return };
        tokio::select! {
            () = ends => {}
            state = states.changed() => if is_alive(state) { continue },
        }
        let Some(carrier) = carrier.upgrade() else { return };
        if !is_alive(states.peek_state()) || !carrier.is_valid(&clock) {
            carrier.end(&clock);
            return;
        }
    }
}

impl Carrier {
    /// By which the session is asked.
    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }

    /// The core's session, where it is shared.
    pub(crate) fn session(&self) -> Option<&Session> {
        match &self.end {
            End::Shared(session) => Some(session),
            End::Alone(_) => None,
        }
    }

    /// Whether it may be believed in.
    pub(crate) fn is_valid(&self, clock: &Clock) -> bool {
        match &self.end {
            End::Shared(session) => session.is_valid(),
            End::Alone(until) => clock.now() < *locked(until),
        }
    }

    /// Whether the session may still be there at the server, as far as is known here.
    pub(crate) fn may_stand(&self) -> bool {
        self.wire.may_stand()
    }

    fn is_usable(&self) -> bool {
        let enough = |session: &Session| session.is_valid() && session.remaining() > session.ttl() / 2;
        self.may_stand() && self.session().is_some_and(enough)
    }

    /// Completes when it should be looked at whether it is over.
    fn ends(&self, clock: &Clock) -> impl Future<Output = ()> + use<> {
        let clock = clock.clone();
        let of = match &self.end {
            End::Shared(session) => Ok(session.clone()),
            End::Alone(until) => Err(*locked(until)),
        };
        async move {
            match of {
                Ok(session) => drop(session.lost().await),
                Err(until) => clock.sleep_until(until).await,
            }
        }
    }

    /// Its only lease may be believed in until then.
    pub(crate) fn extend(&self, until: Moment) {
        if let End::Alone(noted) = &self.end {
            let mut noted = locked(noted);
            *noted = until.max(*noted);
        }
    }

    /// It is over: every guard on it learns it, and so does the server, if it can be reached.
    pub(crate) fn end(&self, clock: &Clock) {
        match &self.end {
            End::Shared(session) => session.end(LossReason::SessionEnded),
            End::Alone(until) => {
                let mut until = locked(until);
                *until = clock.now().min(*until);
            }
        }
        // The last of a session's clients ends the session when it is dropped.
        self.wire.close();
    }

    /// Makes the session's own node, which is its first heartbeat; gives the transaction.
    async fn make_own(&self, clock: &Clock, folder: &str, acls: Acls<'static>) -> Result<i64, CallError> {
        let client = self.wire.client()?;
        let mode = CreateMode::Ephemeral.with_acls(acls);
        let sent = clock.now();
        let mut made = client.create(&self.own, b"", &mode).await;
        if made == Err(zookeeper_client::Error::NoNode) {
            make_folder(&client, folder, acls).await?;
            made = client.create(&self.own, b"", &mode).await;
        }
        let (stat, _) = made.map_err(|failure| judge("opening a session of ZooKeeper", failure, false))?;
        self.beats.count(clock, sent).await;
        Ok(stat.czxid)
    }
}

/// Makes this node and those above it, as containers: the server deletes them when they have been empty for a while.
pub(crate) async fn make_folder(client: &Client, folder: &str, acls: Acls<'static>) -> Result<(), CallError> {
    let made = client.mkdir(folder, &CreateMode::Container.with_acls(acls)).await;
    made.map_err(|failure| judge("making a node of ZooKeeper", failure, false))
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carrier").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
