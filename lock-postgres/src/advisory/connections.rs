//! [`LockConnections`]: opens and renews the connections of this process that have advisory locks.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lock_core::kit::{Heartbeat, SessionBackend, SessionHandle};
use lock_core::runtime::background;
use lock_core::{Claim, Clock, Holder, RenewalOutcome, Result, Session, async_trait};

use super::claim_state::ClaimState;
use super::connection::{LockConnection, is_connection_lost};
use super::statements::AdvisoryStatements;
use crate::database::Database;
use crate::error;

/// Opens and renews the connections of this process that have advisory locks: one for each TTL of
/// renewed leases, and one for each lease that is not renewed.
#[derive(Debug)]
pub(super) struct LockConnections {
    database: Arc<Database>,
    statements: Arc<AdvisoryStatements>,
    clock: Clock,
    opened: AtomicU64,
}

impl LockConnections {
    pub(super) fn new(database: Arc<Database>, statements: Arc<AdvisoryStatements>, clock: Clock) -> LockConnections {
        LockConnections { database, statements, clock, opened: AtomicU64::new(0) }
    }

    /// A new connection for one lease that is not renewed. It ends when the last clone of the
    /// handle is dropped.
    ///
    /// It is opened in the background: it belongs to no caller.
    pub(super) async fn open_single(self: &Arc<Self>, ttl: Duration) -> Result<LockConnection> {
        let connections = self.clone();
        let opening = background()?.spawn(async move { connections.connect(ttl, false).await });
        opening.await.unwrap_or_else(|_| Err(error::runtime_ended()))
    }

    async fn connect(&self, ttl: Duration, ends_with_session: bool) -> Result<LockConnection> {
        let pending = Session::start(&self.clock);
        let connection = self.database.connect().await?;
        let session = pending.established(self.opened.fetch_add(1, Ordering::Relaxed) + 1, ttl);
        let limit = self.database.config().response_timeout;
        Ok(LockConnection::start(connection, self.statements.clone(), limit, session, ends_with_session))
    }
}

impl SessionHandle for LockConnection {
    fn session(&self) -> &Session {
        &self.session
    }

    fn has_room(&self) -> bool {
        self.is_open()
    }
}

#[async_trait]
impl SessionBackend for LockConnections {
    type Handle = LockConnection;
    type Entry = Holder;

    fn session_ttl(&self, ttl: Duration) -> Duration {
        ttl
    }

    async fn open(&self, ttl: Duration) -> Result<Arc<LockConnection>> {
        Ok(Arc::new(self.connect(ttl, true).await?))
    }

    fn granted_entry(&self, _: &Arc<LockConnection>, claim: &Claim) -> Option<Holder> {
        ClaimState::of(claim).is_granted().then(|| claim.holder())
    }

    async fn heartbeat(
        &self,
        connection: &Arc<LockConnection>,
        clock: &Clock,
        granted: Vec<(Claim, Holder)>,
    ) -> Result<Heartbeat<Holder>> {
        let since = clock.now();
        let held = match connection.heartbeat().await {
            None => return Ok(Heartbeat::Gone),
            Some(Err(error)) if is_connection_lost(&error) => return Ok(Heartbeat::Gone),
            Some(held) => held?.0,
        };
        let entries = Arc::new(held.into_iter().collect());
        Ok(Heartbeat::Alive { since, ttl: connection.session.ttl(), granted: Arc::new(granted), entries })
    }

    async fn confirm_lost(&self, _: &Arc<LockConnection>, missing: Vec<(Claim, &Holder)>) -> Result<Vec<Claim>> {
        Ok(missing.into_iter().map(|(claim, _)| claim).collect())
    }

    /// The connection's own task unlocks what no claim wants, in each heartbeat.
    async fn renew_single(&self, _: &Clock, claim: &Claim) -> Result<RenewalOutcome> {
        let is_held = match ClaimState::of(claim).connection() {
            None => false,
            Some(connection) => match connection.heartbeat().await {
                None => false,
                Some(Err(error)) if is_connection_lost(&error) => false,
                Some(held) => held?.0.contains(&claim.holder()),
            },
        };
        Ok(if is_held { RenewalOutcome::HeldFor(claim.ttl()) } else { RenewalOutcome::NotHeld })
    }

    async fn delete_orphans(&self, _: &Arc<LockConnection>, _: &HashSet<Holder>) -> Result<()> {
        Ok(())
    }
}
