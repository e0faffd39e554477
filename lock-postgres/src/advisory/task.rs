//! [`Task`]: runs the statements of one connection that has advisory locks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, Effect, Error, ErrorKind, Holder, LockName, Realm, Result, Session};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::command::{Acquisition, Command, HeldHere};
use super::statements::AdvisoryStatements;
use crate::connection::{Connection, ConnectionKind};
use crate::error;
use crate::key::AdvisoryKey;
use crate::realm_cache::realm_text;
use crate::row::{Row, to_micros};
use crate::statement::{Statement, Value};

/// The owner of one connection that has advisory locks.
pub(super) struct Task {
    connection: Connection,
    statements: Arc<AdvisoryStatements>,
    limit: Duration,
    session: Session,
    /// The task ends with its session; otherwise when no handle of it is left.
    ends_with_session: bool,
    held: HashMap<AdvisoryKey, HeldLock>,
}

/// One lock of this connection.
#[derive(Clone, Debug)]
struct HeldLock {
    name: LockName,
    holder: Holder,
    /// The row has another holder: the lock was broken, and is kept only to block.
    evicted: bool,
}

/// The connection is to be closed.
struct Closed;

/// Interval of the task's own heartbeats, which notice a broken connection and a broken lock.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

impl Task {
    pub(super) fn new(
        connection: Connection,
        statements: Arc<AdvisoryStatements>,
        limit: Duration,
        session: Session,
        ends_with_session: bool,
    ) -> Task {
        Task { connection, statements, limit, session, ends_with_session, held: HashMap::new() }
    }

    /// Executes commands until the connection is to be closed.
    pub(super) async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut next = Instant::now() + HEARTBEAT_INTERVAL;
        let session = self.session.clone();
        loop {
            let executed = tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.execute(command).await,
                    None => Err(Closed),
                },
                () = sleep_until(next) => {
                    next = Instant::now() + HEARTBEAT_INTERVAL;
                    match self.heartbeat().await {
                        Err(error) if error.may_have_taken_effect() => Err(Closed),
                        _ => Ok(()),
                    }
                }
                _ = session.lost(), if self.ends_with_session => Err(Closed),
            };
            if executed.is_err() {
                return;
            }
        }
    }

    async fn execute(&mut self, command: Command) -> Result<(), Closed> {
        match command {
            // If the caller has gone, the next heartbeat finds the lock: its claim is on no session
            // then.
            Command::Acquire(claim, key, sender) => reply(sender, self.acquire(&claim, key).await),
            Command::Release(holder, sender) => reply(sender, self.release(holder).await),
            Command::Heartbeat(sender) => reply(sender, self.heartbeat().await),
        }
    }

    /// Runs one statement, with a time limit.
    async fn run_statement(&mut self, statement: &Statement, values: &[Value]) -> Result<Vec<PgRow>> {
        let server = self.connection.server.clone();
        match timeout(self.limit, self.connection.run(ConnectionKind::Direct, statement, values)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(failed)) => Err(error::classify(&server, statement.action, failed)),
            Err(_) => {
                Err(Error::no_answer(format_args!("{server}: {}", statement.action), self.limit, Effect::Unknown))
            }
        }
    }

    fn unexpected_reply(&self, statement: &Statement) -> Error {
        error::unexpected_reply(&self.connection.server, statement.action)
    }

    async fn acquire(&mut self, claim: &Claim, key: AdvisoryKey) -> Result<Acquisition> {
        let statements = self.statements.clone();
        if let Some(lock) = self.held.get(&key) {
            if lock.holder != claim.holder() || lock.evicted {
                // The server would grant it to this connection a second time.
                return Ok(Acquisition::Held);
            }
            let values = [Value::text(claim.name()), Value::text(claim.holder())];
            let rows = self.run_statement(&statements.read_own_row, &values).await?;
            return match rows.first() {
                Some(row) => self.granted(&statements.read_own_row, row),
                None => Ok(Acquisition::Held),
            };
        }
        let (statement, values) = for_key(&statements.lock_one, &statements.lock_two, key);
        let rows = self.run_statement(statement, &values).await?;
        let got = rows.first().and_then(|row| row.try_get("got").ok());
        if !got.ok_or_else(|| self.unexpected_reply(statement))? {
            return Ok(Acquisition::Held);
        }
        let lock = HeldLock { name: claim.name().clone(), holder: claim.holder(), evicted: false };
        self.held.insert(key, lock);
        match self.write_row(claim, key).await {
            Ok(acquired) => Ok(acquired),
            Err(error) if error.may_have_taken_effect() => Err(error),
            Err(error) => {
                // No row was written: only the lock has to be released.
                self.unlock(key).await?;
                Err(error)
            }
        }
    }

    /// Writes the holder into the row, and takes the next token.
    async fn write_row(&mut self, claim: &Claim, key: AdvisoryKey) -> Result<Acquisition> {
        let statements = self.statements.clone();
        let (class, object, form) = key.parts();
        let values = [
            Value::text(claim.name()),
            Value::text(claim.holder()),
            Value::Number(to_micros(claim.ttl())),
            Value::Text(serde_json::to_string(claim.info()).unwrap_or_default()),
            Value::Text(format!("{class}:{object}:{form}")),
        ];
        // Only the one who has the lock writes the row: if the insert found one, the second update
        // finds it too.
        for statement in [&statements.take_row, &statements.insert_row, &statements.take_row] {
            let rows = self.run_statement(statement, &values).await?;
            if let Some(row) = rows.first() {
                return self.granted(statement, row);
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, format!("\"{}\": its row could not be written", claim.name())))
    }

    fn granted(&self, statement: &Statement, row: &PgRow) -> Result<Acquisition> {
        let row = Row::read(row).ok_or_else(|| self.unexpected_reply(statement))?;
        let realm = Realm::new(realm_text(&self.connection.system, &row.realm));
        Ok(Acquisition::Granted(row, realm))
    }

    async fn release(&mut self, holder: Holder) -> Result<bool> {
        let found = self.held.iter().find(|(_, lock)| lock.holder == holder).map(|(key, lock)| (*key, lock.clone()));
        let Some((key, lock)) = found else { return Ok(false) };
        if lock.evicted {
            return Ok(false);
        }
        if !self.free_row(&lock).await? {
            // It was broken just now: a revoked lock goes on blocking.
            self.heartbeat().await?;
            return Ok(false);
        }
        self.unlock(key).await?;
        Ok(true)
    }

    /// Removes the holder from the row; returns whether it was this holder's.
    ///
    /// It does not wait for a transaction that has locked the row: the other locks of this
    /// connection would go without a heartbeat meanwhile.
    async fn free_row(&mut self, lock: &HeldLock) -> Result<bool> {
        let statements = self.statements.clone();
        let statement = &statements.free;
        let rows = self.run_statement(statement, &[Value::text(&lock.name), Value::text(lock.holder)]).await?;
        let flag =
            |name| rows.first().and_then(|row| row.try_get(name).ok()).ok_or_else(|| self.unexpected_reply(statement));
        match (flag("freed")?, flag("locked")?) {
            (freed, false) => Ok(freed),
            (_, true) => {
                let server = &self.connection.server;
                let text = format!("{server}: another transaction has locked the row of \"{}\"", lock.name);
                Err(Error::refused(ErrorKind::Unavailable, text))
            }
        }
    }

    async fn unlock(&mut self, key: AdvisoryKey) -> Result<()> {
        let statements = self.statements.clone();
        let (statement, values) = for_key(&statements.unlock_one, &statements.unlock_two, key);
        self.run_statement(statement, &values).await?;
        self.held.remove(&key);
        Ok(())
    }

    /// Reads which locks the connection has. Unlocks those that were broken or whose claim has left
    /// the session, and forgets those that are gone.
    async fn heartbeat(&mut self) -> Result<HeldHere> {
        let found = self.read_held().await?;
        let wanted: Vec<_> = self.session.claims().iter().map(Claim::holder).collect();
        let (mut holders, mut unwanted) = (Vec::new(), Vec::new());
        self.held.retain(|key, lock| {
            let (class, object, form) = key.parts();
            let Some((holder, blocks)) = found.get(&format!("{class}:{object}:{form}")) else { return false };
            if *holder == Some(lock.holder) {
                holders.push(lock.holder);
                if self.ends_with_session && !wanted.contains(&lock.holder) {
                    unwanted.push((*key, lock.clone()));
                }
            } else {
                lock.evicted = true;
                if !blocks {
                    unwanted.push((*key, lock.clone()));
                }
            }
            true
        });
        for (key, lock) in unwanted {
            match self.free_row(&lock).await {
                Ok(_) => self.unlock(key).await?,
                Err(error) if error.may_have_taken_effect() => return Err(error),
                // The next heartbeat tries again.
                Err(_) => {}
            }
        }
        Ok(HeldHere(holders))
    }

    /// The locks of this connection by key: the holder in the row, and whether it was revoked and
    /// still blocks.
    async fn read_held(&mut self) -> Result<HashMap<String, (Option<Holder>, bool)>> {
        let statements = self.statements.clone();
        let statement = &statements.heartbeat;
        let rows = self.run_statement(statement, &[]).await?;
        let unexpected = |_: sqlx::Error| self.unexpected_reply(statement);
        let mut found = HashMap::new();
        for row in &rows {
            let key: String = row.try_get("key").map_err(unexpected)?;
            let holder: Option<String> = row.try_get("holder").map_err(unexpected)?;
            let revoked: Option<bool> = row.try_get("revoked").map_err(unexpected)?;
            let remaining: Option<i64> = row.try_get("remaining").map_err(unexpected)?;
            let blocks = revoked == Some(true) && remaining > Some(0);
            found.insert(key, (holder.and_then(|holder| holder.parse::<Holder>().ok()), blocks));
        }
        Ok(found)
    }
}

/// Sends the outcome to the caller. After an outcome in doubt the connection is closed.
fn reply<T>(sender: oneshot::Sender<Result<T>>, outcome: Result<T>) -> Result<(), Closed> {
    let in_doubt = outcome.as_ref().is_err_and(Error::may_have_taken_effect);
    let _ = sender.send(outcome);
    if in_doubt { Err(Closed) } else { Ok(()) }
}

fn for_key<'s>(one: &'s Statement, two: &'s Statement, key: AdvisoryKey) -> (&'s Statement, Vec<Value>) {
    match key {
        AdvisoryKey::One(key) => (one, vec![Value::Number(key)]),
        AdvisoryKey::Two(a, b) => (two, vec![Value::Number(a.into()), Value::Number(b.into())]),
    }
}
