//! [`Wire`]: a session's client, with a bound on what is under way on its connection.

use std::fmt;
use std::sync::{Arc, Mutex};

use lock_core::Result;
use zookeeper_client::Client;

use crate::error::CallError;
use crate::gate::{Gate, session_is_over};
use crate::link::is_alive;
use crate::session::locked;

/// A session's client, with a bound on what is under way on its connection.
///
/// A session's requests are answered in their order, so that a heartbeat stands behind all that was sent before. The
/// bound keeps that short, however many tasks acquire and release at the same time.
///
/// A session lasts while anybody has its client. So it is given to nobody but what is under way: what a caller keeps,
/// whose runtime may stand still, is this, and nothing of the session once it is closed.
#[derive(Clone)]
pub(crate) struct Wire {
    client: Arc<Mutex<Option<Client>>>,
    gate: Gate,
}

/// How many steps are under way on one session at most: enough to keep its server busy from 40 ms away (6,400 steps a
/// second), and few enough that a heartbeat behind them is answered within a small part of the shortest session.
const UNDER_WAY: usize = 256;

impl Wire {
    pub(crate) fn new(client: Client) -> Wire {
        Wire { client: Arc::new(Mutex::new(Some(client))), gate: Gate::of(UNDER_WAY) }
    }

    /// Takes one step, of one request or a few that are sent in one go, when there is a place for it.
    pub(crate) async fn ask<T, F>(&self, step: impl FnOnce(Client) -> F + Send + 'static) -> Result<T, CallError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, CallError>> + Send + 'static,
    {
        let wire = self.clone();
        self.gate.pass(async move { step(wire.client()?).await }).await
    }

    /// The client itself, for heartbeats and what belongs to them, which pass everything else.
    pub(crate) fn client(&self) -> Result<Client, CallError> {
        locked(&self.client).clone().ok_or_else(session_is_over)
    }

    /// Whether the session may still be there at the server, as far as is known here.
    pub(crate) fn may_stand(&self) -> bool {
        locked(&self.client).as_ref().is_some_and(|client| is_alive(client.state()))
    }

    /// The session ends when what is under way has been answered; what still waits for a place is not sent.
    pub(crate) fn close(&self) {
        self.gate.close();
        drop(locked(&self.client).take());
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("may_stand", &self.may_stand()).field("gate", &self.gate).finish()
    }
}
