//! [`AdvisoryStore`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::kit::Sessions;
use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Guarantees, HeldBy, Holder, LockName,
    LockStore, Publisher, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser, async_trait,
};

use super::claim_state::ClaimState;
use super::connection::is_connection_lost;
use super::connections::LockConnections;
use super::statements::AdvisoryStatements;
use crate::database::Database;
use crate::key::KeyForm;
use crate::realm_cache::RealmCache;
use crate::row::Row;
use crate::statement::Value;
use crate::{diagnose, error};

/// The store in PostgreSQL, with advisory locks: for programs that must exclude existing code that
/// uses these.
///
/// A lock lives as long as the connection that has it. All renewed leases of one TTL are on one
/// connection, with a heartbeat; a row for each name beside the locks has the token, and says who
/// holds it. Waiters poll: a wait on the server would need a connection each, and could go on after
/// the waiter has gone.
///
/// # Cancel safety
///
/// A step that has begun on a connection is finished by the connection's own task. A lock whose
/// claim is no longer wanted is released with the next heartbeat.
pub struct AdvisoryStore {
    pub(super) database: Arc<Database>,
    pub(super) form: KeyForm,
    pub(super) statements: Arc<AdvisoryStatements>,
    pub(super) connections: Arc<LockConnections>,
    pub(super) sessions: Sessions<LockConnections>,
    pub(super) guarantees: Guarantees,
    pub(super) realm: RealmCache,
}

#[async_trait]
impl LockStore for AdvisoryStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.realm.current()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.acquire(claim).await
    }

    async fn wait(&self, _claim: &Claim, _held: &Contention) -> Result<()> {
        std::future::pending().await
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.sessions.renew_batch(&self.connections, batch).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        let state = ClaimState::of(claim);
        let connection = state.connection();
        state.set_granted(false);
        match connection {
            None => Ok(ReleaseOutcome::NotHeld),
            Some(connection) => match connection.release(claim.holder()).await {
                Some(Ok(true)) => Ok(ReleaseOutcome::Held),
                Some(Ok(false)) | None => Ok(ReleaseOutcome::NotHeld),
                // The server ended the connection, and freed its locks.
                Some(Err(error)) if is_connection_lost(&error) => Ok(ReleaseOutcome::NotHeld),
                Some(Err(error)) => Err(error),
            },
        }
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        Ok(self.read_settled_holder(name, self.form.key(name)?).await?.into_iter().collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        let after = after.map_or("", LockName::as_str);
        let values = [Value::text(after), Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))];
        let reply = self.database.run(&self.statements.list, &values).await?;
        let unexpected = || error::unexpected_reply(&reply.server, self.statements.list.action);
        let named = reply.rows.iter().map(|row| Row::named(row).ok_or_else(unexpected));
        named.map(|named| named.map(|(name, row)| (name, vec![self.held_by(&reply, &row)]))).collect()
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(holder) = seen.holder else { return Ok(None) };
        self.evict(name, holder, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        let new = Holder::fresh().to_string();
        let reply = self.database.run(&self.statements.new_realm, &[Value::text(&new)]).await?;
        match reply.rows.is_empty() {
            true => Err(error::unexpected_reply(&reply.server, self.statements.new_realm.action)),
            false => Ok(self.realm.update(&reply, &new)),
        }
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::findings(&self.database, &self.guarantees, &self.realm()).await
    }
}

impl AdvisoryStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] = diagnose::FINDING_CODES;
}

impl fmt::Debug for AdvisoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdvisoryStore")
            .field("config", self.database.config())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
