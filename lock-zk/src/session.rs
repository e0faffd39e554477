//! [`ZkSession`]: a session of ZooKeeper that carries leases.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use lock_core::kit::{SessionHandle, SingleFlight, locked};
use lock_core::{Claim, Clock, HeldBy, LossReason, Moment, Result, Session, runtime};
use zookeeper_client::{Acls, StateWatcher};

use crate::error::CallError;
use crate::heartbeat::{Heartbeat, HeartbeatOutcome};
use crate::opener::OpenedSession;
use crate::queue_reader::QueueReader;
use crate::session_client::{SessionClient, is_alive};
use crate::uncontended::Uncontended;

/// A session of ZooKeeper that carries the renewed leases of one TTL, or one fixed lease.
pub(crate) struct ZkSession {
    kind: Kind,
    pub(crate) ttl: Duration,
    /// ZooKeeper's number of the session.
    pub(crate) id: i64,
    heartbeat: Heartbeat,
    /// The heartbeat in flight: a second one would only make both slower.
    pub(crate) heartbeat_in_flight: SingleFlight<Arc<SessionState>>,
    /// The descriptions of those that hold a lock on this session, by the paths of their nodes:
    /// waiters of the same process need not read the node.
    known_holders: Mutex<HashMap<String, HeldBy>>,
    pub(crate) uncontended: Uncontended,
    pub(crate) queue_reader: QueueReader,
    /// Closed when the session is over: then the client ends it at the server as well, and its
    /// nodes with it.
    client: SessionClient,
}

/// The state of a session after a heartbeat.
#[derive(Debug)]
pub(crate) struct SessionState {
    /// The claims that had a lease on the session before the heartbeat, with the paths of their
    /// nodes.
    pub(crate) granted: Arc<Vec<(Claim, String)>>,
    /// `None` if the session has ended; otherwise the moment from which it lasts for its TTL, and
    /// the paths of its nodes.
    pub(crate) alive: Option<(Moment, Arc<HashSet<String>>)>,
}

/// The use of a session, which decides how long it may be believed in.
enum Kind {
    /// Many renewed leases: the core renews the session and notifies its guards.
    Shared(Session),
    /// One fixed lease, which may be believed in until this moment.
    Single(Mutex<Moment>),
}

impl ZkSession {
    /// The session that was just opened; for one fixed lease if `is_single`.
    pub(crate) fn new(opened: OpenedSession, is_single: bool, clock: &Clock, heartbeat: Heartbeat) -> ZkSession {
        let id = opened.id();
        let session = opened.pending.established(id as u64, opened.ttl);
        let kind = if is_single {
            Kind::Single(Mutex::new(clock.now().after(session.remaining())))
        } else {
            Kind::Shared(session)
        };
        ZkSession {
            kind,
            ttl: opened.ttl,
            id,
            heartbeat,
            heartbeat_in_flight: SingleFlight::default(),
            known_holders: Mutex::default(),
            uncontended: Uncontended::default(),
            queue_reader: QueueReader::default(),
            client: SessionClient::new(opened.client),
        }
    }

    /// The client for calls on this session.
    pub(crate) fn client(&self) -> &SessionClient {
        &self.client
    }

    /// The core's session; `None` for that of a fixed lease.
    pub(crate) fn core_session(&self) -> Option<&Session> {
        match &self.kind {
            Kind::Shared(session) => Some(session),
            Kind::Single(_) => None,
        }
    }

    /// Returns `true` if its leases may be believed in.
    pub(crate) fn is_valid(&self, clock: &Clock) -> bool {
        match &self.kind {
            Kind::Shared(session) => session.is_valid(),
            Kind::Single(until) => clock.now() < *locked(until),
        }
    }

    /// Returns `true` if the session may still exist at the server, as far as this client knows.
    pub(crate) fn may_be_alive(&self) -> bool {
        self.client.may_be_alive()
    }

    /// Makes the session's own node below `parent`, which is its first heartbeat; gives the
    /// transaction.
    pub(crate) async fn create_heartbeat_node(
        &self,
        clock: &Clock,
        parent: &str,
        acls: Acls<'static>,
    ) -> Result<i64, CallError> {
        self.heartbeat.create_node(clock, &self.client, parent, acls).await
    }

    /// Confirms at the leader that the session lasts: see [`Heartbeat::confirm`].
    pub(crate) async fn heartbeat(
        &self,
        clock: &Clock,
        not_before: Option<Moment>,
    ) -> Result<HeartbeatOutcome, CallError> {
        self.heartbeat.confirm(clock, &self.client, not_before).await
    }

    /// Extends the validity of a fixed lease, never shortening it.
    pub(crate) fn extend(&self, until: Moment) {
        if let Kind::Single(deadline) = &self.kind {
            let mut deadline = locked(deadline);
            *deadline = until.max(*deadline);
        }
    }

    /// Ends the session: here for all its guards, and at the server if that can be reached.
    pub(crate) fn end(&self, clock: &Clock) {
        match &self.kind {
            Kind::Shared(session) => session.end(LossReason::SessionEnded),
            Kind::Single(until) => {
                let mut until = locked(until);
                *until = clock.now().min(*until);
            }
        }
        // The server ends a session when the last clone of its client is dropped.
        self.client.close();
    }

    /// Starts the background task that ends the session when it is over.
    pub(crate) fn start_end_watch(self: &Arc<Self>, states: StateWatcher, clock: &Clock) -> Result<()> {
        runtime::background()?.spawn(end_when_over(Arc::downgrade(self), states, clock.clone()));
        Ok(())
    }

    /// Completes when the session may be over.
    fn until_over(&self, clock: &Clock) -> impl Future<Output = ()> + use<> {
        let clock = clock.clone();
        let kind = match &self.kind {
            Kind::Shared(session) => Ok(session.clone()),
            Kind::Single(until) => Err(*locked(until)),
        };
        async move {
            match kind {
                Ok(session) => drop(session.lost().await),
                Err(until) => clock.sleep_until(until).await,
            }
        }
    }

    /// The description of the holder whose node has this path, if it is on this session.
    pub(crate) fn known_holder(&self, path: &str) -> Option<HeldBy> {
        locked(&self.known_holders).get(path).cloned()
    }

    pub(crate) fn remember_holder(&self, path: String, by: HeldBy) {
        locked(&self.known_holders).insert(path, by);
    }

    pub(crate) fn forget_holder(&self, path: &str) {
        locked(&self.known_holders).remove(path);
    }
}

/// Ends a session at the server when it is over here, since its client would keep it alive for
/// ever; and ends it here as soon as the server says that it has ended, so that its guards are lost
/// at once.
async fn end_when_over(session: Weak<ZkSession>, mut states: StateWatcher, clock: Clock) {
    loop {
        let Some(over) = session.upgrade().map(|session| session.until_over(&clock)) else { return };
        tokio::select! {
            () = over => {}
            state = states.changed() => if is_alive(state) { continue },
        }
        let Some(session) = session.upgrade() else { return };
        if !is_alive(states.peek_state()) || !session.is_valid(&clock) {
            session.end(&clock);
            return;
        }
    }
}

impl SessionHandle for ZkSession {
    fn session(&self) -> &Session {
        self.core_session().expect("BUG: the session of a fixed lease is not shared")
    }

    fn has_room(&self) -> bool {
        self.may_be_alive()
    }
}

impl fmt::Debug for ZkSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZkSession").field("id", &self.id).field("ttl", &self.ttl).finish_non_exhaustive()
    }
}
