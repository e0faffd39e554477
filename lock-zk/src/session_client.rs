//! [`SessionClient`]: a session's client, with a bound on what is under way on its connection.

use std::fmt;
use std::sync::{Arc, Mutex};

use lock_core::Result;
use zookeeper_client::Client;

use crate::error::CallError;
use crate::limit::{ConcurrencyLimit, session_ended};
use crate::opener::is_alive;
use crate::session::locked;

/// A session's client, with a bound on what is under way on its connection.
///
/// A session's requests are answered in their order, so that a heartbeat stands behind all that was sent before. The
/// bound keeps that short, however many tasks acquire and release at the same time.
///
/// A session lasts while anybody has its client. So it is given to nobody but what is under way: what a caller keeps,
/// whose runtime may stand still, is this, and nothing of the session once it is closed.
#[derive(Clone)]
pub(crate) struct SessionClient {
    client: Arc<Mutex<Option<Client>>>,
    limit: ConcurrencyLimit,
}

/// How many steps are under way on one session at most: enough to keep its server busy from 40 ms away (6,400 steps a
/// second), and few enough that a heartbeat behind them is answered within a small part of the shortest session.
const MAX_IN_FLIGHT: usize = 256;

impl SessionClient {
    pub(crate) fn new(client: Client) -> SessionClient {
        SessionClient { client: Arc::new(Mutex::new(Some(client))), limit: ConcurrencyLimit::new(MAX_IN_FLIGHT) }
    }

    /// Takes one step, of one request or a few that are sent in one go, when there is a place for it.
    pub(crate) async fn call<T, F>(&self, step: impl FnOnce(Client) -> F + Send + 'static) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let client = self.clone();
        self.limit.run(async move { step(client.client()?).await }).await
    }

    /// The client itself, for heartbeats and what belongs to them, which pass everything else.
    pub(crate) fn client(&self) -> Result<Client, CallError> {
        locked(&self.client).clone().ok_or_else(session_ended)
    }

    /// Whether the session may still be there at the server, as far as is known here.
    pub(crate) fn may_be_alive(&self) -> bool {
        locked(&self.client).as_ref().is_some_and(|client| is_alive(client.state()))
    }

    /// The session ends when what is under way has been answered; what still waits for a place is not sent.
    pub(crate) fn close(&self) {
        self.limit.close();
        drop(locked(&self.client).take());
    }
}

impl fmt::Debug for SessionClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("may_stand", &self.may_be_alive()).field("limit", &self.limit).finish()
    }
}
