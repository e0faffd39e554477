//! [`Connections`]: the connections of one runtime to each member, and its concurrency limits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Client, ConnectOptions};
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use crate::call::CallKind;
use crate::concurrency_limit::{ConcurrencyLimit, Permit};
use crate::release_queue::ReleaseQueue;

/// The connections of one runtime to each member, and its limits on calls in flight. A connection
/// works only while the runtime that made it is driven.
pub(crate) struct Connections {
    for_calls: Vec<MemberConnection>,
    for_heartbeats: Vec<MemberConnection>,
    request_permits: ConcurrencyLimit,
    release_permits: ConcurrencyLimit,
    heartbeat_permits: ConcurrencyLimit,
    /// Releases that found no free permit.
    pub(crate) release_queue: ReleaseQueue,
}

/// The client of one member.
#[derive(Default)]
pub(crate) struct MemberConnection {
    client: OnceCell<Arc<Client>>,
    /// Number of renewed logins.
    login_generation: AtomicU64,
    login_mutex: Mutex<()>,
}

/// Permission for one call in flight, or for several that follow each other.
#[derive(Debug)]
pub(crate) struct CallPermit {
    pub(crate) connections: Arc<Connections>,
    pub(crate) kind: CallKind,
    /// The moment from which the caller has waited.
    pub(crate) since: Instant,
    _permit: Permit,
}

impl Connections {
    pub(crate) fn new(members: usize) -> Connections {
        let clients = || (0..members).map(|_| MemberConnection::default()).collect();
        Connections {
            for_calls: clients(),
            for_heartbeats: clients(),
            request_permits: ConcurrencyLimit::new(),
            release_permits: ConcurrencyLimit::new(),
            heartbeat_permits: ConcurrencyLimit::new(),
            release_queue: ReleaseQueue::default(),
        }
    }

    pub(crate) fn member(&self, kind: CallKind, index: usize) -> &MemberConnection {
        match kind {
            CallKind::Request | CallKind::Release => &self.for_calls[index],
            CallKind::Heartbeat => &self.for_heartbeats[index],
        }
    }

    pub(crate) fn permits(&self, kind: CallKind) -> &ConcurrencyLimit {
        match kind {
            CallKind::Request => &self.request_permits,
            CallKind::Release => &self.release_permits,
            CallKind::Heartbeat => &self.heartbeat_permits,
        }
    }
}

impl CallPermit {
    pub(crate) fn new(connections: Arc<Connections>, kind: CallKind, since: Instant, permit: Permit) -> CallPermit {
        CallPermit { connections, kind, since, _permit: permit }
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connections").field("members", &self.for_calls.len()).finish_non_exhaustive()
    }
}

impl MemberConnection {
    /// The client. Connecting is lazy; with a login it logs in.
    pub(crate) async fn client(
        &self,
        endpoint: &str,
        options: &ConnectOptions,
    ) -> Result<&Arc<Client>, etcd_client::Error> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let connect = || async { Client::connect([endpoint], Some(options.clone())).await.map(Arc::new) };
                Box::pin(self.client.get_or_try_init(connect)).await
            }
        }
    }

    /// The generation of the login that calls use now.
    pub(crate) fn login_generation(&self) -> u64 {
        self.login_generation.load(Ordering::Acquire)
    }

    /// Logs in again, unless another call has done so since `generation` was found to have expired.
    pub(crate) async fn log_in_again(&self, client: &Client, generation: u64) -> Result<(), etcd_client::Error> {
        let _alone = self.login_mutex.lock().await;
        if self.login_generation() == generation {
            client.refresh_token().await?;
            self.login_generation.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}
