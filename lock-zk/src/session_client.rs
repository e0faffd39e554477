//! [`SessionClient`]: the client of a session, with a bound on its requests in flight.

use std::fmt;
use std::sync::{Arc, Mutex};

use lock_core::Result;
use lock_core::kit::locked;
use zookeeper_client::{Client, SessionState};

use crate::error::{CallError, session_ended};
use crate::limit::ConcurrencyLimit;

/// The client of a session, with a bound on its requests in flight.
///
/// The requests of a session are answered in their order, so that a heartbeat is answered after
/// everything that was sent before it. The bound keeps that delay short, however many tasks acquire
/// and release at the same time.
///
/// A session lasts as long as any clone of its client exists. So only requests in flight have a
/// clone. Callers, whose runtimes may stand still, keep a `SessionClient`, which has none once it
/// is closed.
#[derive(Clone)]
pub(crate) struct SessionClient {
    client: Arc<Mutex<Option<Client>>>,
    limit: ConcurrencyLimit,
}

/// The most requests in flight on one session: enough to keep its server busy from 40 ms away
/// (6,400 requests a second), and few enough that a heartbeat behind them is answered within a
/// small part of the shortest session.
const MAX_IN_FLIGHT: usize = 256;

impl SessionClient {
    pub(crate) fn new(client: Client) -> SessionClient {
        SessionClient { client: Arc::new(Mutex::new(Some(client))), limit: ConcurrencyLimit::new(MAX_IN_FLIGHT) }
    }

    /// Makes one call as soon as there is a permit: one request, or a few that are sent together.
    pub(crate) async fn call<T, F>(&self, call: impl FnOnce(Client) -> F + Send + 'static) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let client = self.clone();
        self.limit.run(async move { call(client.client()?).await }).await
    }

    /// The client without the bound: for heartbeats and what belongs to them, which overtake all
    /// calls that wait for a permit.
    pub(crate) fn client(&self) -> Result<Client, CallError> {
        locked(&self.client).clone().ok_or_else(session_ended)
    }

    /// Returns `true` if the session may still exist at the server, as far as this client knows.
    pub(crate) fn may_be_alive(&self) -> bool {
        locked(&self.client).as_ref().is_some_and(|client| is_alive(client.state()))
    }

    /// Ends the session as soon as the requests in flight are answered. Calls that wait for a
    /// permit are not sent.
    pub(crate) fn close(&self) {
        self.limit.close();
        drop(locked(&self.client).take());
    }
}

/// Returns `true` if a session in this state may still exist at the server. Its client learns of an
/// end late.
pub(crate) fn is_alive(state: SessionState) -> bool {
    !state.is_terminated()
}

impl fmt::Debug for SessionClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionClient").field("may_be_alive", &self.may_be_alive()).field("limit", &self.limit).finish()
    }
}
