//! [`PostgresStore`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{
    Attempt, Beat, BreakMode, Claim, Contention, Error, ErrorKind, Eviction, Fault, Guarantees, HeldBy, Holder,
    LockName, LockStore, RaiseOutcome, Realm, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Result,
    TokenRaiser, async_trait,
};
use sqlx::Row as _;

use crate::config::Mode;
use crate::connection::Way;
use crate::grants::Grants;
use crate::lanes::Lanes;
use crate::link::Link;
use crate::prune::Pruning;
use crate::realms::Realms;
use crate::row::{Row, to_micros};
use crate::server::Server;
use crate::sql::Sql;
use crate::statement::{Statement, Value};
use crate::tables::{self, Tables};
use crate::wakeups::Wakeups;
use crate::{FenceSql, Finding, PostgresConfig, error};

/// The store in PostgreSQL, with lease rows.
///
/// A few connections of each runtime carry the steps, others the renewals, and one of the process the messages to its
/// waiters. They are made when they are needed, and closed when nobody used them for a minute. What is asked for and given
/// back at the same time travels in one statement.
///
/// # Cancel safety
///
/// A step whose future is dropped may still be done by the server. Nothing of it outlives one TTL.
pub struct PostgresStore {
    link: Arc<Link>,
    sql: Arc<Sql>,
    lanes: Lanes,
    grants: Arc<Grants>,
    pruning: Arc<Pruning>,
    guarantees: Guarantees,
    is_logged: bool,
    wakeups: Wakeups,
}

/// So often is a row asked for again at once that another transaction had locked.
const BUSY: u32 = 6;
/// When to look again at a row that others keep locked: no lease says how long.
const LOOK_AT_BUSY: Duration = Duration::from_millis(25);

impl PostgresStore {
    /// Connects, finds out what is in the way, reads what the server says of itself and of its data, and warns of what
    /// endangers locks.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for settings that cannot be used, and where the tables are missing, of
    /// a newer program, or of the other mode; [`Denied`](ErrorKind::Denied) for a wrong login or missing rights;
    /// [`Unavailable`](ErrorKind::Unavailable) or [`TimedOut`](ErrorKind::TimedOut) within the connect time-out.
    ///
    /// # Cancel safety
    ///
    /// It only looks; that there is a standby it notes beside the table.
    pub async fn connect(config: PostgresConfig) -> Result<PostgresStore> {
        config.check()?;
        if config.mode != Mode::Rows {
            let text = "mode=advisory is another store: connect to it with AdvisoryStore, or through the driver";
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let link = Link::open(&config).await?;
        let Tables { realm, is_logged } = tables::look(&link).await?;
        let server = Server::look(&link, is_logged).await?;
        for finding in server.findings() {
            tracing::warn!(target: "leasehold", store = "postgres", "{finding}");
        }
        let guarantees = server.guarantees(Mode::Rows);
        let (link, sql) = (Arc::new(link), Arc::new(Sql::new(&config.table)));
        let grants = Arc::new(Grants {
            realms: Realms::new(realm),
            remembers_all: guarantees.records_survive.contains(Fault::PowerLoss.into()),
            polls: (link.way() == Way::Pooled).then_some(config.poll_interval),
        });
        let pruning = Arc::new(Pruning::new(&sql, &config));
        Ok(PostgresStore {
            lanes: Lanes::new(&link, &sql, &grants, &pruning),
            wakeups: Wakeups::new(&link),
            guarantees,
            is_logged,
            grants,
            pruning,
            sql,
            link,
        })
    }

    /// What an operator should know of the server, now.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out or denied.
    ///
    /// # Cancel safety
    ///
    /// It only looks.
    pub async fn diagnose(&self) -> Result<Vec<Finding>> {
        Ok(Server::look(&self.link, self.is_logged).await?.findings())
    }

    /// The fence for transactions in the same database.
    pub fn fence_sql(&self) -> FenceSql {
        FenceSql::of(&self.link.config().table)
    }

    /// Removes the rows of names that nobody has locked for `idle`, in small steps along the names; gives how many. A part
    /// of that also happens by itself while names are added, for [`prune_after`](PostgresConfig::prune_after). Later tokens
    /// of these names are above all that were given before.
    ///
    /// # Errors
    ///
    /// As for [`request`](LockStore::request).
    ///
    /// # Cancel safety
    ///
    /// What was removed until then is removed.
    pub async fn prune(&self, idle: Duration) -> Result<u64> {
        self.pruning.walk(&self.link, idle).await
    }

    /// Renews with one statement; gives those that another transaction has locked.
    async fn renew_with<'a>(
        &self,
        statement: &Statement,
        entries: &[(&'a Renewal, &'a Claim)],
    ) -> Result<Vec<(&'a Renewal, &'a Claim)>> {
        let texts = |text: fn(&Claim) -> String| entries.iter().map(|(_, claim)| text(claim)).collect();
        let values = [
            Value::Texts(texts(|claim| claim.name().to_string())),
            Value::Texts(texts(|claim| claim.holder().to_string())),
            Value::Numbers(entries.iter().map(|(_, claim)| to_micros(claim.ttl())).collect()),
        ];
        let answer = self.link.renew(statement, &values).await?;
        let odd = || error::odd(&answer.to, statement.doing);
        let mut locked = Vec::new();
        for row in &answer.rows {
            let number: i64 = row.try_get("entry").map_err(|_| odd())?;
            let at = usize::try_from(number - 1).map_err(|_| odd())?;
            let (entry, claim) = *entries.get(at).ok_or_else(odd)?;
            let flag = |name: &str| row.try_get::<bool, _>(name).map_err(|_| odd());
            match (flag("renewed")?, flag("locked")?) {
                (true, _) => entry.answer(RenewalOutcome::HeldFor(claim.ttl())),
                (false, true) => locked.push((entry, claim)),
                (false, false) => entry.answer(RenewalOutcome::NotHeld),
            }
        }
        Ok(locked)
    }

    async fn break_with(&self, statement: &Statement, values: [Value; 3], how: BreakMode) -> Result<Option<Eviction>> {
        let answer = self.link.run(statement, &values).await?;
        let odd = || error::odd(&answer.to, statement.doing);
        let Some(found) = answer.rows.first() else {
            return if answer.twice { Err(error::twice(&answer.to, statement.doing)) } else { Ok(None) };
        };
        let row = Row::read(found).ok_or_else(odd)?;
        let used: i64 = found.try_get("used").map_err(|_| odd())?;
        let token = self.grants.realms.token(&answer, &row.realm, used.unsigned_abs());
        let free_in = if how == BreakMode::Revoke { row.remaining } else { Duration::ZERO };
        Ok(Some(Eviction::new(self.grants.shown(&answer, &row), Some(token), free_in)))
    }
}

#[async_trait]
impl LockStore for PostgresStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.grants.realms.now()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        for tried in 0..BUSY {
            if let Some(attempt) = self.lanes.request(claim).await? {
                return Ok(attempt);
            }
            if tried > 1 {
                tokio::time::sleep(Duration::from_millis(u64::from(tried))).await;
            }
        }
        // Somebody is about to have it, or a transaction that is fenced by the last lease has not ended yet.
        Ok(Attempt::Held(Contention::new(HeldBy::default(), LOOK_AT_BUSY)))
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let (Some(holder), Way::Direct) = (held.by.holder, self.link.way()) else {
            return std::future::pending().await;
        };
        let mut ear = self.wakeups.ear(claim.name().as_str());
        self.wakeups.listen().await?;
        // Only now, so that what is told from now on is heard; and if the lease ended before, nothing will be told.
        let values = [Value::text(claim.name()), Value::text(holder)];
        let answer = self.link.run(&self.sql.announce, &values).await?;
        let announced = answer.rows.first().and_then(|row| row.try_get("announced").ok());
        if announced.ok_or_else(|| error::odd(&answer.to, self.sql.announce.doing))? {
            ear.told().await;
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        let mut entries = Vec::with_capacity(batch.len());
        for entry in batch {
            match entry.of() {
                Beat::Lease(claim) => entries.push((entry, claim)),
                Beat::Session(_) => {
                    let text = "lease rows have no sessions that could be renewed";
                    batch.fail(Error::refused(ErrorKind::Protocol, text));
                }
            }
        }
        let renewed = async {
            let locked = self.renew_with(&self.sql.renew, &entries).await?;
            if !locked.is_empty() {
                self.renew_with(&self.sql.renew_patiently, &locked).await?;
            }
            Ok(())
        };
        if let Err(error) = renewed.await {
            batch.fail(error);
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        self.lanes.release(claim).await
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let answer = self.link.run(&self.sql.inspect, &[Value::text(name)]).await?;
        let Some(row) = answer.rows.first() else { return Ok(None) };
        let row = Row::read(row).ok_or_else(|| error::odd(&answer.to, self.sql.inspect.doing))?;
        Ok(Some(self.grants.shown(&answer, &row)))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let after = after.map_or("", LockName::as_str);
        let values = [Value::text(after), Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))];
        let answer = self.link.run(&self.sql.list, &values).await?;
        let odd = || error::odd(&answer.to, self.sql.list.doing);
        let named = answer.rows.iter().map(|row| Row::named(row).ok_or_else(odd));
        named.map(|named| named.map(|(name, row)| (name, self.grants.shown(&answer, &row)))).collect()
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(holder) = seen.holder else { return Ok(None) };
        let (statement, last) = match how {
            BreakMode::Revoke => (&self.sql.revoke, Value::text(Holder::fresh())),
            BreakMode::Now => (&self.sql.free, Value::text(self.link.config().table.channel())),
        };
        self.break_with(statement, [Value::text(name), Value::text(holder), last], how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        let new = Holder::fresh().to_string();
        let answer = self.link.run(&self.sql.new_realm, &[Value::text(&new)]).await?;
        match answer.rows.is_empty() {
            true => Err(error::odd(&answer.to, self.sql.new_realm.doing)),
            false => Ok(self.grants.realms.of(&answer, &new)),
        }
    }
}

#[async_trait]
impl TokenRaiser for PostgresStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        let number = i64::try_from(number).ok().filter(|number| *number < i64::MAX).ok_or_else(|| {
            Error::refused(ErrorKind::Protocol, format!("no token can follow {number} in a table of leases"))
        })?;
        let values = [Value::text(claim.name()), Value::text(claim.holder()), Value::Number(number)];
        let answer = self.link.run(&self.sql.raise, &values).await?;
        let raised = answer.rows.first().and_then(|row| row.try_get("raised").ok());
        match raised.ok_or_else(|| error::odd(&answer.to, self.sql.raise.doing))? {
            true => Ok(RaiseOutcome::Raised),
            false => Ok(RaiseOutcome::Refused),
        }
    }

    fn record_store(&self) -> Option<&dyn lock_core::RecordStore> {
        None
    }
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("config", self.link.config())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
