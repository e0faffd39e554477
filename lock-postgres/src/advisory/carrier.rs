//! [`Carrier`]: one connection that has advisory locks, and the task to which it belongs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lock_core::{Claim, Effect, Error, ErrorKind, Holder, LockName, LossReason, Realm, Result, Session};
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};

use super::sql::AdvisorySql;
use crate::connection::{Connection, Way};
use crate::error;
use crate::key::Key;
use crate::row::{Row, to_micros};
use crate::statement::{Statement, Value};

/// One connection that has advisory locks. It belongs to a task of its own, which does one statement at a time: a caller
/// that goes away cuts nothing off.
///
/// In any doubt the connection is closed, and everybody on it is told: the server frees what it had.
#[derive(Clone, Debug)]
pub(crate) struct Carrier {
    /// The session whose leases it carries.
    pub(crate) session: Session,
    orders: mpsc::UnboundedSender<Order>,
}

/// What came of asking for a lock.
#[derive(Clone, Debug)]
pub(crate) enum Taken {
    /// It is had on this connection, with this row.
    Granted(Row, Realm),
    /// Somebody has it.
    Held,
}

/// What a heartbeat found.
#[derive(Debug)]
pub(crate) struct Kept(pub(crate) Vec<Holder>);

enum Order {
    Take(Claim, Key, oneshot::Sender<Result<Taken>>),
    Give(Holder, oneshot::Sender<Result<bool>>),
    Beat(oneshot::Sender<Result<Kept>>),
}

/// So often the task looks whether its connection still stands, and whether a lock was broken.
const LOOK: Duration = Duration::from_secs(1);

struct Task {
    connection: Connection,
    sql: Arc<AdvisorySql>,
    limit: Duration,
    session: Session,
    /// It ends with its session; if not, when nobody can give it orders any more.
    ends_with_session: bool,
    held: HashMap<Key, Had>,
}

/// One lock of this connection.
#[derive(Clone, Debug)]
struct Had {
    name: LockName,
    holder: Holder,
    /// The row is another's now: it was broken, and is kept only to block.
    evicted: bool,
}

impl Carrier {
    /// Begins to use a connection.
    pub(crate) fn start(
        connection: Connection,
        sql: Arc<AdvisorySql>,
        limit: Duration,
        session: Session,
        ends_with_session: bool,
    ) -> Carrier {
        let (orders, inbox) = mpsc::unbounded_channel();
        let ending = Ending(session.clone());
        let task = Task { connection, sql, limit, session: session.clone(), ends_with_session, held: HashMap::new() };
        // On the runtime that made the connection, which is the one in the background.
        tokio::spawn(async move {
            // Dropped with the runtime too.
            let _ending = ending;
            task.run(inbox).await;
        });
        Carrier { session, orders }
    }

    /// Whether its connection may still stand.
    pub(crate) fn is_open(&self) -> bool {
        !self.orders.is_closed()
    }

    /// Asks for a lock. `None`: the connection has ended, and nothing is had on it.
    pub(crate) async fn take(&self, claim: &Claim, key: Key) -> Option<Result<Taken>> {
        self.order(|answer| Order::Take(claim.clone(), key, answer)).await
    }

    /// Gives back what this holder has; whether it had it.
    pub(crate) async fn give(&self, holder: Holder) -> Option<Result<bool>> {
        self.order(|answer| Order::Give(holder, answer)).await
    }

    /// The holders that still have their locks on this connection.
    pub(crate) async fn beat(&self) -> Option<Result<Kept>> {
        self.order(Order::Beat).await
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.orders.send(order(answer)).ok()?;
        answered.await.ok()
    }
}

/// Tells everybody on a session that it has ended, however its task did.
struct Ending(Session);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.end(LossReason::SessionEnded);
    }
}

/// Whether the connection is to be closed.
enum Doubt {
    Closed,
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Order>) {
        let mut next = Instant::now() + LOOK;
        let session = self.session.clone();
        loop {
            let worked = tokio::select! {
                order = inbox.recv() => match order {
                    Some(order) => self.work(order).await,
                    None => Err(Doubt::Closed),
                },
                () = sleep_until(next) => {
                    next = Instant::now() + LOOK;
                    match self.beat().await {
                        Err(error) if error.may_have_taken_effect() => Err(Doubt::Closed),
                        _ => Ok(()),
                    }
                }
                _ = session.lost(), if self.ends_with_session => Err(Doubt::Closed),
            };
            if worked.is_err() {
                return;
            }
        }
    }

    async fn work(&mut self, order: Order) -> Result<(), Doubt> {
        match order {
            Order::Take(claim, key, answer) => {
                let taken = self.take(&claim, key).await;
                let ends = taken.as_ref().is_err_and(Error::may_have_taken_effect);
                // A caller that has gone is found by the next heartbeat: its claim is on no session then.
                let _ = answer.send(taken);
                if ends { Err(Doubt::Closed) } else { Ok(()) }
            }
            Order::Give(holder, answer) => {
                let given = self.give(holder).await;
                let ends = given.as_ref().is_err_and(Error::may_have_taken_effect);
                let _ = answer.send(given);
                if ends { Err(Doubt::Closed) } else { Ok(()) }
            }
            Order::Beat(answer) => {
                let kept = self.beat().await;
                let ends = kept.as_ref().is_err_and(Error::may_have_taken_effect);
                let _ = answer.send(kept);
                if ends { Err(Doubt::Closed) } else { Ok(()) }
            }
        }
    }

    /// One statement with a deadline of its own.
    async fn ask(&mut self, statement: &Statement, values: &[Value]) -> Result<Vec<PgRow>> {
        let to = self.connection.to.clone();
        match timeout(self.limit, self.connection.ask(Way::Direct, statement, values)).await {
            Ok(Ok(rows)) => Ok(rows),
            Ok(Err(failed)) => Err(error::of_step(&to, statement.doing, failed)),
            Err(_) => Err(error::timed_out(&to, statement.doing, self.limit, Effect::Unknown)),
        }
    }

    fn odd(&self, statement: &Statement) -> Error {
        error::odd(&self.connection.to, statement.doing)
    }

    async fn take(&mut self, claim: &Claim, key: Key) -> Result<Taken> {
        let sql = self.sql.clone();
        if let Some(had) = self.held.get(&key) {
            if had.holder != claim.holder() || had.evicted {
                // The server would give it to this connection twice.
                return Ok(Taken::Held);
            }
            let rows = self.ask(&sql.own, &[Value::text(claim.name()), Value::text(claim.holder())]).await?;
            return match rows.first() {
                Some(row) => self.granted(&sql.own, row),
                None => Ok(Taken::Held),
            };
        }
        let (statement, values) = locking(&sql.lock_one, &sql.lock_two, key);
        let rows = self.ask(statement, &values).await?;
        let got: bool = rows.first().and_then(|row| row.try_get("got").ok()).ok_or_else(|| self.odd(statement))?;
        if !got {
            return Ok(Taken::Held);
        }
        let had = Had { name: claim.name().clone(), holder: claim.holder(), evicted: false };
        self.held.insert(key, had);
        match self.next_token(claim, key).await {
            Ok(taken) => Ok(taken),
            Err(error) if error.may_have_taken_effect() => Err(error),
            Err(error) => {
                // Nothing was written: the lock alone is given back.
                self.unlock(key).await?;
                Err(error)
            }
        }
    }

    /// Writes whose lock it is, and takes the next token.
    async fn next_token(&mut self, claim: &Claim, key: Key) -> Result<Taken> {
        let sql = self.sql.clone();
        let (class, object, form) = key.parts();
        let values = [
            Value::text(claim.name()),
            Value::text(claim.holder()),
            Value::Number(to_micros(claim.ttl())),
            Value::Text(serde_json::to_string(claim.info()).unwrap_or_default()),
            Value::Text(format!("{class}:{object}:{form}")),
        ];
        // In turns: only who has the lock writes the row, so that a third look finds what the second made.
        for statement in [&sql.again, &sql.insert, &sql.again] {
            let rows = self.ask(statement, &values).await?;
            if let Some(row) = rows.first() {
                return self.granted(statement, row);
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, format!("\"{}\": its row could not be written", claim.name())))
    }

    fn granted(&self, statement: &Statement, row: &PgRow) -> Result<Taken> {
        let row = Row::read(row).ok_or_else(|| self.odd(statement))?;
        let realm = Realm::new(crate::realms::text(&self.connection.system, &row.realm));
        Ok(Taken::Granted(row, realm))
    }

    async fn give(&mut self, holder: Holder) -> Result<bool> {
        let found = self.held.iter().find(|(_, had)| had.holder == holder).map(|(key, had)| (*key, had.clone()));
        let Some((key, had)) = found else { return Ok(false) };
        if had.evicted {
            return Ok(false);
        }
        if !self.free(&had).await? {
            // It was broken just now: what it blocks, it goes on blocking.
            self.beat().await?;
            return Ok(false);
        }
        self.unlock(key).await?;
        Ok(true)
    }

    /// Says in its row that nobody holds it; whether it was this holder's. It waits for nobody who has locked the row:
    /// meanwhile all other locks of this connection would go without a heartbeat.
    async fn free(&mut self, had: &Had) -> Result<bool> {
        let sql = self.sql.clone();
        let rows = self.ask(&sql.free, &[Value::text(&had.name), Value::text(had.holder)]).await?;
        let flag = |name| rows.first().and_then(|row| row.try_get(name).ok()).ok_or_else(|| self.odd(&sql.free));
        match (flag("freed")?, flag("locked")?) {
            (freed, false) => Ok(freed),
            (_, true) => {
                let text =
                    format!("{}: another transaction has locked the row of \"{}\"", self.connection.to, had.name);
                Err(Error::refused(ErrorKind::Unavailable, text))
            }
        }
    }

    async fn unlock(&mut self, key: Key) -> Result<()> {
        let sql = self.sql.clone();
        let (statement, values) = locking(&sql.unlock_one, &sql.unlock_two, key);
        self.ask(statement, &values).await?;
        self.held.remove(&key);
        Ok(())
    }

    /// Reads what the connection has; gives up what nobody wants and what was broken, and forgets what is gone.
    async fn beat(&mut self) -> Result<Kept> {
        let sql = self.sql.clone();
        let rows = self.ask(&sql.kept, &[]).await?;
        let odd = || error::odd(&self.connection.to, sql.kept.doing);
        let mut found = HashMap::new();
        for row in &rows {
            let key: String = row.try_get("key").map_err(|_| odd())?;
            let holder: Option<String> = row.try_get("holder").map_err(|_| odd())?;
            let revoked: Option<bool> = row.try_get("revoked").map_err(|_| odd())?;
            let remaining: Option<i64> = row.try_get("remaining").map_err(|_| odd())?;
            let blocks = revoked == Some(true) && remaining > Some(0);
            found.insert(key, (holder.and_then(|holder| holder.parse::<Holder>().ok()), blocks));
        }
        let wanted: Vec<_> = self.session.claims().iter().map(Claim::holder).collect();
        let (mut kept, mut unwanted) = (Vec::new(), Vec::new());
        self.held.retain(|key, had| {
            let (class, object, form) = key.parts();
            let Some((holder, blocks)) = found.get(&format!("{class}:{object}:{form}")) else { return false };
            if *holder == Some(had.holder) {
                kept.push(had.holder);
                if self.ends_with_session && !wanted.contains(&had.holder) {
                    unwanted.push((*key, had.clone()));
                }
            } else {
                had.evicted = true;
                if !blocks {
                    unwanted.push((*key, had.clone()));
                }
            }
            true
        });
        for (key, had) in unwanted {
            match self.free(&had).await {
                Ok(_) => self.unlock(key).await?,
                Err(error) if error.may_have_taken_effect() => return Err(error),
                // The next heartbeat finds it still there.
                Err(_) => {}
            }
        }
        Ok(Kept(kept))
    }
}

fn locking<'s>(one: &'s Statement, two: &'s Statement, key: Key) -> (&'s Statement, Vec<Value>) {
    match key {
        Key::One(key) => (one, vec![Value::Number(key)]),
        Key::Two(a, b) => (two, vec![Value::Number(a.into()), Value::Number(b.into())]),
    }
}
