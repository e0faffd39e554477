//! [`Link`]: what one runtime has of each member: connections, and a bound on what is under way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Client, ConnectOptions};
use tokio::sync::{Mutex, OnceCell};

use crate::batcher::ReleaseBatcher;
use crate::concurrency_limit::ConcurrencyLimit;

/// What a call is for. Each kind has a line of its own, and none stands behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// Asking for a lock, waiting for one, and whatever operators ask.
    Request,
    /// Giving back.
    Release,
    /// Keeping what is held: over connections of its own, past all else.
    Heartbeat,
}

/// What one runtime has of each member. A connection works only while the runtime that made it is driven.
pub(crate) struct Connections {
    for_calls: Vec<MemberConnection>,
    for_heartbeats: Vec<MemberConnection>,
    request_permits: ConcurrencyLimit,
    release_permits: ConcurrencyLimit,
    heartbeat_permits: ConcurrencyLimit,
    /// Releases that found many under way.
    pub(crate) release_queue: ReleaseBatcher,
}

/// The client of one member.
#[derive(Default)]
pub(crate) struct MemberConnection {
    client: OnceCell<Arc<Client>>,
    /// How many logins were renewed.
    login_generation: AtomicU64,
    login_mutex: Mutex<()>,
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
            release_queue: ReleaseBatcher::default(),
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

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("members", &self.for_calls.len()).finish_non_exhaustive()
    }
}

impl MemberConnection {
    /// The client. Connecting is lazy, but logs in if there is a login.
    pub(crate) async fn client(&self, at: &str, options: &ConnectOptions) -> Result<&Arc<Client>, etcd_client::Error> {
        match self.client.get() {
            Some(client) => Ok(client),
            None => {
                let connect = || async { Client::connect([at], Some(options.clone())).await.map(Arc::new) };
                Box::pin(self.client.get_or_try_init(connect)).await
            }
        }
    }

    /// The number of the login that calls are made with now.
    pub(crate) fn login_generation(&self) -> u64 {
        self.login_generation.load(Ordering::Acquire)
    }

    /// Logs in again, unless somebody has since `login` was found to have run out.
    pub(crate) async fn log_in_again(&self, client: &Client, login: u64) -> Result<(), etcd_client::Error> {
        let _alone = self.login_mutex.lock().await;
        if self.login_generation() == login {
            client.refresh_token().await?;
            self.login_generation.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}
