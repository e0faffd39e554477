//! [`Carrier`], a session of ZooKeeper that carries leases; [`Sessions`], those of this process.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lock_core::{Clock, Error, ErrorKind, HeldBy, LossReason, Moment, Result, Session};
use zookeeper_client::{Acls, Client, CreateMode, StateWatcher};

use crate::emptied::Emptied;
use crate::error::{CallError, judge};
use crate::heartbeat::Beats;
use crate::link::{Links, is_alive};

/// A session of ZooKeeper that carries leases of one TTL, or one fixed lease.
pub(crate) struct Carrier {
    pub(crate) end: End,
    pub(crate) ttl: Duration,
    /// ZooKeeper's number of it.
    pub(crate) id: i64,
    /// A node of the session's own, on which its heartbeats are written.
    pub(crate) own: String,
    pub(crate) beats: Beats,
    /// What is said of those who hold a lock on this session, by the paths of their nodes: their waiters of the same process
    /// need not read it.
    pub(crate) holders: Mutex<HashMap<String, HeldBy>>,
    pub(crate) emptied: Emptied,
    /// Taken when the session is over: then the client ends it at the server as well, and its nodes with it.
    client: Mutex<Option<Client>>,
}

/// What says that a session is over.
pub(crate) enum End {
    /// The core, which renews it and tells its guards.
    Shared(Session),
    /// The moment until which its only lease may be believed in.
    Alone(Mutex<Moment>),
}

/// The sessions of this process that carry the renewed leases, one for each TTL.
pub(crate) struct Sessions {
    links: Arc<Links>,
    clock: Clock,
    tick: Duration,
    /// Below it each session has a node of its own.
    folder: String,
    acls: Acls<'static>,
    by_ttl: Mutex<HashMap<Duration, Slot>>,
    by_key: Mutex<HashMap<u64, Weak<Carrier>>>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Carrier>>>>;

/// How many ticks a session lasts at least. Its heartbeats tell the state of a tick ago.
const LEAST_TICKS: u32 = 4;

impl Sessions {
    pub(crate) fn new(
        links: Arc<Links>,
        clock: Clock,
        tick: Duration,
        folder: String,
        acls: Acls<'static>,
    ) -> Sessions {
        Sessions { links, clock, tick, folder, acls, by_ttl: Mutex::default(), by_key: Mutex::default() }
    }

    pub(crate) fn tick(&self) -> Duration {
        self.tick
    }

    /// The shortest TTL that a lease gets.
    pub(crate) fn shortest(&self) -> Duration {
        self.tick * LEAST_TICKS
    }

    /// The session for leases of this TTL; a new one if there is none, or too little of it remains.
    pub(crate) async fn for_ttl(&self, ttl: Duration) -> Result<Arc<Carrier>> {
        let ttl = ttl.max(self.shortest());
        let slot = locked(&self.by_ttl).entry(ttl).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(carrier) = slot.as_ref().filter(|carrier| carrier.is_usable()) {
            return Ok(carrier.clone());
        }
        let carrier = Box::pin(self.open(ttl, false)).await?;
        *slot = Some(carrier.clone());
        Ok(carrier)
    }

    /// A session for one fixed lease.
    pub(crate) async fn alone(&self, ttl: Duration) -> Result<Arc<Carrier>> {
        self.open(ttl.max(self.shortest()), true).await
    }

    /// The carrier of this session.
    pub(crate) fn of(&self, session: &Session) -> Option<Arc<Carrier>> {
        locked(&self.by_key).get(&session.key()).and_then(Weak::upgrade)
    }

    async fn open(&self, wanted: Duration, alone: bool) -> Result<Arc<Carrier>> {
        let link = self.links.open(&self.clock, wanted).await?;
        if link.ttl < self.shortest() {
            let text = format!(
                "ZooKeeper grants a session of {:?}, and a lease needs {:?}, four of its ticks: raise its maxSessionTimeout",
                link.ttl,
                self.shortest()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let id = link.client.session_id().0;
        let session = link.opening.opened(id as u64, link.ttl);
        let end = if alone {
            let until = self.clock.now().after(session.remaining());
            End::Alone(Mutex::new(until))
        } else {
            End::Shared(session)
        };
        let own = format!("{}/{id:016x}", self.folder);
        let states = link.client.state_watcher();
        let client = Mutex::new(Some(link.client));
        let carrier = Arc::new(Carrier {
            end,
            ttl: link.ttl,
            id,
            own,
            beats: Beats::new(self.tick),
            holders: Mutex::default(),
            emptied: Emptied::default(),
            client,
        });
        // Before anything is on it: whatever becomes of this call, the session ends.
        tokio::spawn(end_in_time(Arc::downgrade(&carrier), states, self.clock.clone()));
        carrier.make_own(&self.clock, &self.folder, self.acls).await?;
        if let End::Shared(session) = &carrier.end {
            let mut by_key = locked(&self.by_key);
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
    /// The client of the session.
    pub(crate) fn client(&self) -> Result<Client, CallError> {
        locked(&self.client).clone().ok_or_else(|| {
            let error = Error::refused(ErrorKind::Unavailable, "the session of ZooKeeper is over");
            CallError { error, session_is_gone: true }
        })
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
        locked(&self.client).as_ref().is_some_and(|client| is_alive(client.state()))
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
        drop(locked(&self.client).take());
    }

    /// Makes the session's own node, which is its first heartbeat.
    async fn make_own(&self, clock: &Clock, folder: &str, acls: Acls<'static>) -> Result<(), CallError> {
        let client = self.client()?;
        let mode = CreateMode::Ephemeral.with_acls(acls);
        let sent = clock.now();
        let mut made = client.create(&self.own, b"", &mode).await;
        if made == Err(zookeeper_client::Error::NoNode) {
            make_folder(&client, folder, acls).await?;
            made = client.create(&self.own, b"", &mode).await;
        }
        made.map_err(|failure| judge("opening a session of ZooKeeper", failure, false))?;
        self.beats.count(clock, sent).await;
        Ok(())
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
