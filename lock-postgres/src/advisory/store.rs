//! [`AdvisoryStore`].

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::{
    Attempt, Beat, BreakMode, Claim, Clock, Contention, Effect, Error, ErrorKind, Eviction, FencingToken, Guarantees,
    HeldBy, Holder, Lease, LockName, LockStore, Realm, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome, Result,
    Retention, Session, TokenRaiser, async_trait,
};
use sqlx::Row as _;

use super::carrier::{Carrier, Taken};
use super::carriers::Carriers;
use super::sql::AdvisorySql;
use crate::config::Mode;
use crate::connection::Way;
use crate::key::{Key, KeyForm};
use crate::link::Link;
use crate::pool::Answer;
use crate::realms::Realms;
use crate::row::Row;
use crate::server::Server;
use crate::statement::Value;
use crate::tables::{self, Tables};
use crate::{Finding, PostgresConfig, error};

/// The store in PostgreSQL, with advisory locks: for programs that must exclude existing code that uses these.
///
/// A lock lives as long as the connection that has it. All renewed leases of one TTL are on one connection, with a
/// heartbeat; a row for each name beside the locks has the token, and says who holds it. Waiters look again and again: a
/// wait on the server would need a connection each, and could go on after nobody wants it.
///
/// # Cancel safety
///
/// What was begun on a connection is finished by its own task; what nobody wants any more is given back with the next
/// heartbeat.
pub struct AdvisoryStore {
    link: Arc<Link>,
    form: KeyForm,
    sql: Arc<AdvisorySql>,
    carriers: Arc<Carriers>,
    guarantees: Guarantees,
    realms: Realms,
    is_logged: bool,
}

/// Where a claim's lock is, if it has one.
type Place = Mutex<Option<Carrier>>;

/// So often is a lock looked at again that another program seems to have.
const LOOKS: usize = 5;
/// Within this a holder's process notices that its lock was broken, if it runs; and a server ends a connection.
const NOTICES: Duration = Duration::from_secs(2);

impl AdvisoryStore {
    /// Connects, and looks at the server and the tables. Sessions are stamped with `clock`: the locks must go by the same
    /// one.
    ///
    /// # Errors
    ///
    /// As [`PostgresStore::connect`](crate::PostgresStore::connect); [`InvalidConfig`](ErrorKind::InvalidConfig) behind
    /// a pooler that shares connections, which would leave locks with strangers.
    ///
    /// # Cancel safety
    ///
    /// It only looks.
    pub async fn connect(config: PostgresConfig, clock: &Clock) -> Result<AdvisoryStore> {
        config.check()?;
        let Mode::Advisory(form) = config.mode else {
            let text = "mode=rows is another store: connect to it with PostgresStore, or through the driver";
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        };
        let link = Link::open(&config).await?;
        if link.way() == Way::Pooled {
            let text = format!(
                "{}: a pooler that shares connections is in the way, and would leave advisory locks with strangers; connect to the server itself, or use lease rows",
                config.shown()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let Tables { realm, is_logged } = tables::look(&link).await?;
        let server = Server::look(&link, is_logged).await?;
        for finding in server.findings() {
            tracing::warn!(target: "leasehold", store = "postgres", "{finding}");
        }
        let sql = Arc::new(AdvisorySql::new(&config.table));
        Ok(AdvisoryStore {
            guarantees: server.guarantees(config.mode),
            carriers: Arc::new(Carriers::new(sql.clone(), clock.clone())),
            realms: Realms::new(realm),
            link: Arc::new(link),
            form,
            sql,
            is_logged,
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

    async fn carrier_for(&self, claim: &Claim) -> Result<Carrier> {
        let known = place(claim).lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(carrier) = known.filter(Carrier::is_open) {
            return Ok(carrier);
        }
        let carrier = match claim.is_fixed() {
            true => self.carriers.alone(&self.link, claim.ttl()).await?,
            false => self.carriers.for_ttl(&self.link, claim.ttl()).await?,
        };
        if !claim.is_fixed() {
            // Before anything is had for it.
            carrier.session.carry(claim);
        }
        *place(claim).lock().unwrap_or_else(PoisonError::into_inner) = Some(carrier.clone());
        Ok(carrier)
    }

    async fn who(&self, name: &LockName, key: Key) -> Result<Option<HeldBy>> {
        let (class, object, form) = key.parts();
        let values = [Value::text(name), Value::Text(format!("{class}:{object}:{form}"))];
        let answer = self.link.run(&self.sql.inspect, &values).await?;
        let Some(row) = answer.rows.first() else { return Ok(None) };
        // Without a row of its holder: another program has it, or this one under another name of the same key.
        Ok(Some(Row::read(row).map_or_else(HeldBy::default, |row| self.shown(&answer, &row))))
    }

    fn shown(&self, answer: &Answer, row: &Row) -> HeldBy {
        let mut by = row.shown();
        by.token = Some(self.realms.token(answer, &row.realm, row.token));
        // A lock that was not revoked has no end by time.
        by.remaining = by.remaining.filter(|_| row.revoked);
        by
    }

    async fn beat(&self, entry: &Renewal, session: &Session) -> Result<()> {
        let Some(carrier) = self.carriers.of(session) else {
            entry.answer(RenewalOutcome::NotHeld);
            return Ok(());
        };
        // Noted before: what is granted meanwhile is not in what the heartbeat reads.
        let noted: Vec<_> = session.claims().into_iter().filter(is_granted).collect();
        match carrier.beat().await {
            None => entry.answer(RenewalOutcome::NotHeld),
            Some(Err(error)) if ended(&error) => entry.answer(RenewalOutcome::NotHeld),
            Some(kept) => {
                let kept = kept?.0;
                noted.iter().filter(|claim| !kept.contains(&claim.holder())).for_each(|claim| entry.not_held(claim));
                entry.answer(RenewalOutcome::HeldFor(session.ttl()));
            }
        }
        Ok(())
    }

    async fn beat_alone(&self, entry: &Renewal, claim: &Claim) -> Result<()> {
        let carrier = place(claim).lock().unwrap_or_else(PoisonError::into_inner).clone();
        let has = match carrier {
            None => false,
            Some(carrier) => match carrier.beat().await {
                None => false,
                Some(Err(error)) if ended(&error) => false,
                Some(kept) => kept?.0.contains(&claim.holder()),
            },
        };
        entry.answer(if has { RenewalOutcome::HeldFor(claim.ttl()) } else { RenewalOutcome::NotHeld });
        Ok(())
    }

    /// Waits until the lock at this place is given up; ends the connection that does not.
    async fn given_up(&self, name: &LockName, place: String) -> Result<()> {
        for ends in [0, 1] {
            let until = tokio::time::Instant::now() + NOTICES;
            while tokio::time::Instant::now() < until {
                let values = [Value::Text(place.clone()), Value::Number(ends)];
                if self.link.run(&self.sql.still, &values).await?.rows.is_empty() {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        let text = format!("\"{name}\": the connection that has it is asked to end, and has not ended yet");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }
}

/// Whether the connection broke: the server frees what it had, and nothing more is done on it.
fn ended(error: &Error) -> bool {
    error.may_have_taken_effect() && error.kind() == ErrorKind::Unavailable
}

/// What the store keeps with a claim.
#[derive(Debug, Default)]
struct Notes {
    place: Place,
    granted: std::sync::atomic::AtomicBool,
}

fn place(claim: &Claim) -> &Place {
    &claim.store_state(Notes::default).place
}

fn is_granted(claim: &Claim) -> bool {
    claim.store_state(Notes::default).granted.load(std::sync::atomic::Ordering::Acquire)
}

fn set_granted(claim: &Claim, granted: bool) {
    claim.store_state(Notes::default).granted.store(granted, std::sync::atomic::Ordering::Release);
}

#[async_trait]
impl LockStore for AdvisoryStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.realms.now()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        let key = self.form.key(claim.name())?;
        // A connection that has ended, which nobody noticed yet, had nothing: another is asked once.
        for _ in 0..3 {
            let carrier = self.carrier_for(claim).await?;
            match carrier.take(claim, key).await {
                None => {}
                // Nothing of it is left: what that connection had is free.
                Some(Err(error)) if ended(&error) => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(Taken::Granted(row, realm))) => {
                    set_granted(claim, true);
                    let token = Some(FencingToken::new(self.realms.adopt(realm), row.token));
                    let remembers = Retention::Since(row.up);
                    return Ok(Attempt::Granted(match claim.is_fixed() {
                        true => Lease::new(claim.ttl(), token, remembers),
                        false => {
                            let mut lease = Lease::on_session(carrier.session, token, remembers);
                            lease.ttl = lease.ttl.min(claim.ttl());
                            lease
                        }
                    }));
                }
                Some(Ok(Taken::Held)) => {
                    let by = self.who(claim.name(), key).await?.unwrap_or_default();
                    return Ok(Attempt::Held(Contention::new(by, self.link.config().poll_interval)));
                }
            }
        }
        let text = format!("{}: each connection that was to have the lock ended at once", self.link.config().shown());
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }

    async fn wait(&self, _claim: &Claim, _held: &Contention) -> Result<()> {
        std::future::pending().await
    }

    async fn renew(&self, batch: &RenewalBatch) {
        for entry in batch {
            let beaten = match entry.of() {
                Beat::Session(session) => self.beat(entry, session).await,
                Beat::Lease(claim) => self.beat_alone(entry, claim).await,
            };
            if let Err(error) = beaten {
                batch.fail(error);
            }
        }
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let carrier = place(claim).lock().unwrap_or_else(PoisonError::into_inner).clone();
        set_granted(claim, false);
        match carrier {
            None => Ok(ReleaseOutcome::NotHeld),
            Some(carrier) => match carrier.give(claim.holder()).await {
                Some(Ok(true)) => Ok(ReleaseOutcome::Held),
                Some(Ok(false)) | None => Ok(ReleaseOutcome::NotHeld),
                // The server ended the connection, and with it whatever was had on it.
                Some(Err(error)) if ended(&error) => Ok(ReleaseOutcome::NotHeld),
                Some(Err(error)) => Err(error),
            },
        }
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        None
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let key = self.form.key(name)?;
        let mut by = self.who(name, key).await?;
        // A row is written just after its lock is had: one that is not there yet is soon.
        for _ in 0..LOOKS {
            if by.as_ref().is_none_or(|by| by.holder.is_some()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            by = self.who(name, key).await?;
        }
        Ok(by)
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let after = after.map_or("", LockName::as_str);
        let values = [Value::text(after), Value::Number(i64::try_from(limit).unwrap_or(i64::MAX))];
        let answer = self.link.run(&self.sql.list, &values).await?;
        let odd = || error::odd(&answer.to, self.sql.list.doing);
        let named = answer.rows.iter().map(|row| Row::named(row).ok_or_else(odd));
        named.map(|named| named.map(|(name, row)| (name, self.shown(&answer, &row)))).collect()
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let Some(holder) = seen.holder else { return Ok(None) };
        let (statement, values) = match how {
            BreakMode::Revoke => {
                let nobody = Value::text(Holder::fresh());
                (&self.sql.revoke, vec![Value::text(name), Value::text(holder), nobody])
            }
            BreakMode::Now => (&self.sql.evict, vec![Value::text(name), Value::text(holder)]),
        };
        let answer = self.link.run(statement, &values).await?;
        let Some(found) = answer.rows.first() else {
            return if answer.twice { Err(error::twice(&answer.to, statement.doing)) } else { Ok(None) };
        };
        let odd = || error::odd(&answer.to, statement.doing);
        let row = Row::read(found).ok_or_else(odd)?;
        let number = |column: &str| found.try_get::<i64, _>(column).map(i64::unsigned_abs).map_err(|_| odd());
        let token = self.realms.token(&answer, &row.realm, number("used")?);
        let free_in = Duration::from_micros(number("free_in")?);
        if how == BreakMode::Now {
            self.given_up(name, found.try_get("place").map_err(|_| odd())?).await?;
        }
        Ok(Some(Eviction::new(self.shown(&answer, &row), Some(token), free_in)))
    }

    async fn new_realm(&self) -> Result<Realm> {
        let new = Holder::fresh().to_string();
        let answer = self.link.run(&self.sql.new_realm, &[Value::text(&new)]).await?;
        match answer.rows.is_empty() {
            true => Err(error::odd(&answer.to, self.sql.new_realm.doing)),
            false => Ok(self.realms.of(&answer, &new)),
        }
    }
}

impl fmt::Debug for AdvisoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdvisoryStore")
            .field("config", self.link.config())
            .field("realm", &self.realm())
            .finish_non_exhaustive()
    }
}
