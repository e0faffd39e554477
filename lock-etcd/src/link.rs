//! [`Link`]: what one runtime has of each member: connections, and a bound on what is under way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use etcd_client::{Client, ConnectOptions};
use tokio::sync::{Mutex, OnceCell};

use crate::batch::Batches;
use crate::turns::Turns;

/// What a call is for. Each kind has a line of its own, and none stands behind another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Asking for a lock, waiting for one, and whatever operators ask.
    Ask,
    /// Giving back.
    Leave,
    /// Keeping what is held: over connections of its own, past all else.
    Beat,
}

/// What one runtime has of each member. A connection works only while the runtime that made it is driven.
pub(crate) struct Link {
    calls: Vec<Member>,
    beats: Vec<Member>,
    asks: Turns,
    leaves: Turns,
    renewals: Turns,
    /// Releases that found many under way.
    pub(crate) batches: Batches,
}

/// The client of one member.
#[derive(Default)]
pub(crate) struct Member {
    client: OnceCell<Arc<Client>>,
    /// How many logins were renewed.
    logins: AtomicU64,
    logging_in: Mutex<()>,
}

impl Link {
    pub(crate) fn new(members: usize) -> Link {
        let clients = || (0..members).map(|_| Member::default()).collect();
        Link {
            calls: clients(),
            beats: clients(),
            asks: Turns::new(),
            leaves: Turns::new(),
            renewals: Turns::new(),
            batches: Batches::default(),
        }
    }

    pub(crate) fn member(&self, lane: Lane, index: usize) -> &Member {
        match lane {
            Lane::Ask | Lane::Leave => &self.calls[index],
            Lane::Beat => &self.beats[index],
        }
    }

    pub(crate) fn turns(&self, lane: Lane) -> &Turns {
        match lane {
            Lane::Ask => &self.asks,
            Lane::Leave => &self.leaves,
            Lane::Beat => &self.renewals,
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("members", &self.calls.len()).finish_non_exhaustive()
    }
}

impl Member {
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
    pub(crate) fn login(&self) -> u64 {
        self.logins.load(Ordering::Acquire)
    }

    /// Logs in again, unless somebody has since `login` was found to have run out.
    pub(crate) async fn log_in_again(&self, client: &Client, login: u64) -> Result<(), etcd_client::Error> {
        let _alone = self.logging_in.lock().await;
        if self.login() == login {
            client.refresh_token().await?;
            self.logins.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}
