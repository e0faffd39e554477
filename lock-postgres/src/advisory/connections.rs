//! [`LockConnections`]: the connections of this process that have advisory locks.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::runtime::background;
use lock_core::{Clock, Result, Session};

use super::connection::LockConnection;
use super::statements::AdvisoryStatements;
use crate::database::Database;
use crate::error;

/// The connections of this process that have advisory locks: one for each TTL of renewed leases,
/// and one for each lease that is not renewed.
#[derive(Debug)]
pub(super) struct LockConnections {
    statements: Arc<AdvisoryStatements>,
    clock: Clock,
    by_ttl: Mutex<HashMap<Duration, Slot>>,
    by_session: Mutex<HashMap<u64, LockConnection>>,
    opened: AtomicU64,
}

type Slot = Arc<tokio::sync::Mutex<Option<LockConnection>>>;

impl LockConnections {
    pub(super) fn new(statements: Arc<AdvisoryStatements>, clock: Clock) -> LockConnections {
        LockConnections {
            statements,
            clock,
            by_ttl: Mutex::default(),
            by_session: Mutex::default(),
            opened: AtomicU64::new(0),
        }
    }

    /// The connection for renewed leases of this TTL; a new one if there is none, or too little of
    /// its session remains.
    ///
    /// It is opened in the background: it belongs to no caller, and a cancelled caller must not
    /// delay the others.
    pub(super) async fn for_ttl(self: &Arc<Self>, database: &Arc<Database>, ttl: Duration) -> Result<LockConnection> {
        let (connections, database) = (self.clone(), database.clone());
        in_background(async move { connections.shared(&database, ttl).await }).await
    }

    /// A new connection for one lease that is not renewed. It ends when the last clone of the
    /// handle is dropped.
    pub(super) async fn open_single(
        self: &Arc<Self>,
        database: &Arc<Database>,
        ttl: Duration,
    ) -> Result<LockConnection> {
        let (connections, database) = (self.clone(), database.clone());
        in_background(async move { connections.open(&database, ttl, false).await }).await
    }

    async fn shared(&self, database: &Database, ttl: Duration) -> Result<LockConnection> {
        let slot = locked(&self.by_ttl).entry(ttl).or_default().clone();
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| is_usable(connection)) {
            return Ok(connection.clone());
        }
        let connection = self.open(database, ttl, true).await?;
        let mut by_session = locked(&self.by_session);
        by_session.retain(|_, connection| connection.is_open());
        by_session.insert(connection.session.key(), connection.clone());
        drop(by_session);
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// The connection of this session.
    pub(super) fn for_session(&self, session: &Session) -> Option<LockConnection> {
        locked(&self.by_session).get(&session.key()).cloned()
    }

    async fn open(&self, database: &Database, ttl: Duration, ends_with_session: bool) -> Result<LockConnection> {
        let pending = Session::start(&self.clock);
        let connection = database.connect().await?;
        let session = pending.established(self.opened.fetch_add(1, Ordering::Relaxed) + 1, ttl);
        let limit = database.config().response_timeout;
        Ok(LockConnection::start(connection, self.statements.clone(), limit, session, ends_with_session))
    }
}

async fn in_background<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    background()?.spawn(work).await.unwrap_or_else(|_| Err(error::runtime_ended()))
}

fn is_usable(connection: &LockConnection) -> bool {
    let session = &connection.session;
    connection.is_open() && session.is_valid() && session.remaining() > session.ttl() / 2
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
