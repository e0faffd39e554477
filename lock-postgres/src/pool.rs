//! [`Pool`]: a few connections, each used by one step at a time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lock_core::{Effect, Result};
use sqlx::Connection as _;
use sqlx::postgres::PgRow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::connection::{Connection, Way};
use crate::dial::dial;
use crate::error::Failed;
use crate::statement::{Statement, Value};
use crate::{PostgresConfig, error};

/// A few connections, each used by one step at a time; who comes first is served first. One that nobody used for a while
/// is closed.
///
/// A step that was cut off, or whose answer never came, closes its connection: nothing that is still on its way can be
/// taken for the answer to another step.
pub(crate) struct Pool {
    config: Arc<PostgresConfig>,
    way: Way,
    places: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// After how long without use a connection is closed.
    keeps: Duration,
}

/// The connections that nobody uses, the one that was used last at the end.
#[derive(Default)]
struct Idle {
    connections: Vec<(Connection, Instant)>,
    /// There is a task that closes those that were not used for long.
    watched: bool,
}

/// One connection of a [`Pool`], for the steps of one caller. Dropped, it goes back, unless something is still on its way.
pub(crate) struct Lent {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    /// It was used before, and may have ended since.
    was_idle: bool,
    _place: OwnedSemaphorePermit,
}

/// The answer to a step.
pub(crate) struct Answer {
    pub(crate) rows: Vec<PgRow>,
    pub(crate) system: Arc<str>,
    pub(crate) to: Arc<str>,
    /// The step was asked for twice, the first time over a connection that the server ended: what it did not find now, it
    /// may have found then.
    pub(crate) twice: bool,
}

/// A connection that was idle for longer is closed.
pub(crate) const KEEPS: Duration = Duration::from_secs(60);
/// A connection that was idle for longer may have ended unnoticed, and is tried before a step is sent.
const TRUSTED: Duration = Duration::from_secs(1);
/// So often is a statement asked again that met another transaction and was undone.
const MEETINGS: usize = 5;

impl Pool {
    pub(crate) fn new(config: &Arc<PostgresConfig>, way: Way, size: usize, keeps: Duration) -> Arc<Pool> {
        let places = Arc::new(Semaphore::new(size));
        Arc::new(Pool { config: config.clone(), way, places, idle: Mutex::default(), keeps })
    }

    /// A connection, as soon as there is one for this caller. How long that may take is for the caller to say: it is in
    /// the line until it is dropped, and nothing was sent for it.
    pub(crate) async fn take(self: &Arc<Self>) -> Result<Lent> {
        // The semaphore is never closed.
        let place = self.places.clone().acquire_owned().await;
        let place = place.map_err(|_| error::ending())?;
        let idle = self.take_idle().await;
        let was_idle = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => dial(&self.config, self.way).await?,
        };
        Ok(Lent { pool: self.clone(), connection: Some(connection), was_idle, _place: place })
    }

    /// One step.
    pub(crate) async fn run(self: &Arc<Self>, statement: &Statement, values: &[Value]) -> Result<Answer, Failed> {
        self.take().await.map_err(Failed::whole)?.run(statement, values).await
    }

    /// One that was used just now; else one that still answers.
    async fn take_idle(&self) -> Option<Connection> {
        let (mut connection, since) = self.idle().connections.pop()?;
        if since.elapsed() < TRUSTED {
            return Some(connection);
        }
        match timeout(self.config.response_timeout, connection.client.ping()).await {
            Ok(Ok(())) => Some(connection),
            _ => {
                // The others were idle for longer still.
                self.forget_idle();
                None
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_back(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        idle.connections.push((connection, Instant::now()));
        let is_watched = std::mem::replace(&mut idle.watched, true);
        drop(idle);
        if !is_watched {
            // Dropped with its runtime, and then so is the pool.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(close_idle(Arc::downgrade(self)))),
                Err(_) => self.idle().watched = false,
            }
        }
    }

    pub(crate) fn forget_idle(&self) {
        let forgotten = std::mem::take(&mut self.idle().connections);
        drop(forgotten);
    }

    /// Closes those that were not used for long; gives when the next of them is to be looked at.
    fn close_old(&self) -> Option<Instant> {
        let mut idle = self.idle();
        let kept = idle.connections.partition_point(|(_, since)| since.elapsed() >= self.keeps);
        let closed: Vec<_> = idle.connections.drain(..kept).collect();
        let next = idle.connections.first().map(|(_, since)| *since + self.keeps);
        idle.watched = next.is_some();
        drop(idle);
        drop(closed);
        next
    }
}

async fn close_idle(pool: Weak<Pool>) {
    while let Some(at) = pool.upgrade().and_then(|pool| pool.close_old()) {
        sleep_until(at).await;
    }
}

impl Lent {
    /// Runs a statement, and again if it met another transaction and was undone, or if the server had ended the
    /// connection while nobody used it.
    pub(crate) async fn run(&mut self, statement: &Statement, values: &[Value]) -> Result<Answer, Failed> {
        let pool = self.pool.clone();
        let (mut meetings, mut farewell) = (0, None);
        loop {
            // While it is asked it belongs to this future: cut off, it is closed.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => match dial(&pool.config, pool.way).await {
                    Ok(connection) => connection,
                    // What was sent before may have been done.
                    Err(error) => return Err(farewell.unwrap_or_else(|| Failed::whole(error))),
                },
            };
            let was_idle = std::mem::take(&mut self.was_idle);
            let limit = pool.config.response_timeout;
            match timeout(limit, connection.ask(pool.way, statement, values)).await {
                Ok(Ok(rows)) => {
                    let (system, to) = (connection.system.clone(), connection.to.clone());
                    self.connection = Some(connection);
                    return Ok(Answer { rows, system, to, twice: farewell.is_some() });
                }
                Ok(Err(failed)) if error::is_a_meeting(&failed) && meetings < MEETINGS => {
                    meetings += 1;
                    self.connection = Some(connection);
                }
                Ok(Err(failed)) if was_idle && error::is_a_farewell(&failed) => {
                    farewell = Some(Failed::of_step(&connection.to, statement.doing, failed));
                    pool.forget_idle();
                }
                Ok(Err(failed)) => {
                    let to = connection.to.clone();
                    if error::ends_connection(&failed) {
                        // The others lead to the same server.
                        pool.forget_idle();
                    } else {
                        self.connection = Some(connection);
                    }
                    return Err(Failed::of_step(&to, statement.doing, failed));
                }
                Err(_) => {
                    let late = error::timed_out(&connection.to, statement.doing, limit, Effect::Unknown);
                    return Err(Failed::whole(late));
                }
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.put_back(connection);
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle().connections.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use lock_testkit::{PostgresServer, until};

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_of_a_burst_are_closed_when_nobody_used_them_for_a_while() {
        let server = PostgresServer::start(&[]);
        let config = Arc::new(PostgresConfig::from_url(&server.url().parse().unwrap()).unwrap());
        let pool = Pool::new(&config, Way::Direct, 4, Duration::from_millis(300));
        let mut lent = Vec::new();
        for _ in 0..4 {
            lent.push(pool.take().await.unwrap());
        }
        let count = "select count(*) from pg_stat_activity where application_name like 'leasehold%'";
        assert_eq!(server.psql(count), "4");
        let mut used = lent.pop().unwrap();
        drop(lent);
        until("the end of those that nobody uses", || (server.psql(count) == "1").then_some(()));
        let answer = used.run(&Statement::new("asking", "select 1::bigint as one"), &[]).await;
        assert!(answer.is_ok());
        drop(used);
        until("the end of the last", || (server.psql(count) == "0").then_some(()));
        assert!(pool.take().await.unwrap().run(&Statement::new("asking", "select 1"), &[]).await.is_ok());
    }
}
