//! [`PostgresStore`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Error, ErrorKind, Eviction, Finding, Guarantees, HeldBy, Holder,
    LockName, LockStore, Publisher, RaiseOutcome, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser,
    async_trait,
};
use sqlx::Row as _;

use crate::batcher::Batcher;
use crate::connection::ConnectionKind;
use crate::database::Database;
use crate::pruner::Pruner;
use crate::row::Row;
use crate::row_decoder::RowDecoder;
use crate::statement::Value;
use crate::statements::Statements;
use crate::wakeups::Wakeups;
use crate::{diagnose, error};

/// The store in PostgreSQL, with lease rows.
///
/// A few connections of each runtime carry the steps, others the renewals, and one connection of
/// the process receives the notifications for its waiters. They are opened on demand, and closed
/// after a minute without use. Concurrent requests and releases travel in one statement.
///
/// # Cancel safety
///
/// The server may still execute a step whose future was dropped. Nothing of it outlives one TTL.
pub struct PostgresStore {
    pub(crate) database: Arc<Database>,
    pub(crate) statements: Arc<Statements>,
    pub(crate) batcher: Batcher,
    pub(crate) decoder: Arc<RowDecoder>,
    pub(crate) pruner: Arc<Pruner>,
    pub(crate) guarantees: Guarantees,
    pub(crate) wakeups: Wakeups,
}

/// Maximum number of immediate requests for a row that another transaction has locked.
const MAX_LOCKED_ROW_REQUESTS: u32 = 6;
/// Retry interval for a row that stays locked: no lease says how long.
const LOCKED_ROW_RETRY_INTERVAL: Duration = Duration::from_millis(25);

#[async_trait]
impl LockStore for PostgresStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.decoder.realm.current()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        for tried in 0..MAX_LOCKED_ROW_REQUESTS {
            if let Some(attempt) = self.batcher.request(claim).await? {
                return Ok(attempt);
            }
            if tried > 1 {
                tokio::time::sleep(Duration::from_millis(u64::from(tried))).await;
            }
        }
        // Another request is about to be granted, or a transaction that is fenced by the last lease
        // has not ended yet.
        Ok(Attempt::Held(Contention::new(HeldBy::default(), LOCKED_ROW_RETRY_INTERVAL)))
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let (Some(holder), ConnectionKind::Direct) = (held.by.holder, self.database.kind()) else {
            return std::future::pending().await;
        };
        let mut subscription = self.wakeups.subscribe(claim.name().as_str());
        self.wakeups.ensure_listening().await?;
        // Only now, so that no notification is missed from here on. If the lease ended before,
        // there will be none.
        let values = [Value::text(claim.name()), Value::text(holder)];
        let statement = &self.statements.register_waiter;
        let reply = self.database.run(statement, &values).await?;
        let announced = reply.rows.first().and_then(|row| row.try_get("announced").ok());
        if announced.ok_or_else(|| error::unexpected_reply(&reply.server, statement.action))? {
            subscription.recv().await;
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        let entries: Vec<_> = batch.leases().collect();
        self.renew_leases(&entries).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        self.batcher.release(claim).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        let reply = self.database.run(&self.statements.inspect, &[Value::text(name)]).await?;
        let Some(row) = reply.rows.first() else { return Ok(Vec::new()) };
        let unexpected = || error::unexpected_reply(&reply.server, self.statements.inspect.action);
        let row = Row::read(row).ok_or_else(unexpected)?;
        Ok(vec![self.decoder.held_by(&reply, &row)])
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
        named.map(|named| named.map(|(name, row)| (name, vec![self.decoder.held_by(&reply, &row)]))).collect()
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
            false => Ok(self.decoder.realm.update(&reply, &new)),
        }
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        diagnose::findings(&self.database, &self.guarantees, &self.realm()).await
    }
}

#[async_trait]
impl TokenRaiser for PostgresStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        let number = i64::try_from(number).ok().filter(|number| *number < i64::MAX).ok_or_else(|| {
            Error::refused(ErrorKind::Protocol, format!("no token can follow {number} in a table of leases"))
        })?;
        let values = [Value::text(claim.name()), Value::text(claim.holder()), Value::Number(number)];
        let reply = self.database.run(&self.statements.raise, &values).await?;
        let raised = reply.rows.first().and_then(|row| row.try_get("raised").ok());
        match raised.ok_or_else(|| error::unexpected_reply(&reply.server, self.statements.raise.action))? {
            true => Ok(RaiseOutcome::Raised),
            false => Ok(RaiseOutcome::Refused),
        }
    }

    fn record_store(&self) -> Option<&dyn lock_core::RecordStore> {
        None
    }
}

impl PostgresStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] = diagnose::FINDING_CODES;
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("config", self.database.config())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
