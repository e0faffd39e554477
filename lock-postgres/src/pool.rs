//! [`Pool`]: a few connections, each used by one step at a time.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use lock_core::kit::locked;
use lock_core::{Effect, Error, Result};
use sqlx::Connection as _;
use sqlx::postgres::PgRow;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until, timeout};

use crate::config::PostgresConfig;
use crate::connection::{Connection, ConnectionKind};
use crate::error::{self, StepError};
use crate::primary::connect;
use crate::statement::{Statement, Value};

/// A few connections, each used by one step at a time, first come first served. A connection that
/// is idle for long is closed.
///
/// A step that was cancelled, or got no reply, closes its connection: a late reply cannot be taken
/// for that to another step.
pub(crate) struct Pool {
    config: Arc<PostgresConfig>,
    kind: ConnectionKind,
    permits: Arc<Semaphore>,
    idle: Mutex<Idle>,
    /// Time without use after which a connection is closed.
    idle_timeout: Duration,
}

/// The connections that are not in use, the most recently used one last.
#[derive(Default)]
struct Idle {
    connections: Vec<(Connection, Instant)>,
    /// A task runs that closes those whose time is over.
    has_closer: bool,
}

/// One connection of a [`Pool`], for the steps of one caller. It returns to the pool when this is
/// dropped, unless a reply is outstanding.
pub(crate) struct PooledConnection {
    pool: Arc<Pool>,
    connection: Option<Connection>,
    /// It was used before, and may have ended since.
    was_idle: bool,
    _permit: OwnedSemaphorePermit,
}

/// The reply to a statement.
pub(crate) struct Reply {
    pub(crate) rows: Vec<PgRow>,
    pub(crate) system: Arc<str>,
    pub(crate) server: Arc<str>,
    /// The statement was sent twice, the first time over a connection that the server ended. What
    /// it does not find now, the first may have changed.
    pub(crate) was_resent: bool,
}

/// A connection that is idle for longer is closed.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// A connection that was idle for longer may have ended unnoticed, and is pinged before a step is
/// sent.
const MAX_UNCHECKED_IDLE: Duration = Duration::from_secs(1);
/// Maximum number of retries of a statement that conflicted with another transaction and was rolled
/// back.
const MAX_CONFLICT_RETRIES: usize = 5;

impl Pool {
    pub(crate) fn new(
        config: &Arc<PostgresConfig>,
        kind: ConnectionKind,
        size: usize,
        idle_timeout: Duration,
    ) -> Arc<Pool> {
        let permits = Arc::new(Semaphore::new(size));
        Arc::new(Pool { config: config.clone(), kind, permits, idle: Mutex::default(), idle_timeout })
    }

    /// A connection, as soon as one is free. It has no time limit of its own: a caller that drops
    /// the future leaves the queue, and nothing was sent for it.
    pub(crate) async fn acquire(self: &Arc<Self>) -> Result<PooledConnection> {
        // The semaphore is never closed.
        let permit = self.permits.clone().acquire_owned().await;
        let permit = permit.map_err(|_| error::runtime_ended())?;
        let idle = self.take_idle().await;
        let was_idle = idle.is_some();
        let connection = match idle {
            Some(connection) => connection,
            None => connect(&self.config, self.kind).await?,
        };
        Ok(PooledConnection { pool: self.clone(), connection: Some(connection), was_idle, _permit: permit })
    }

    /// Runs one statement.
    pub(crate) async fn run(self: &Arc<Self>, statement: &Statement, values: &[Value]) -> Result<Reply, StepError> {
        self.acquire().await.map_err(StepError::for_all)?.run(statement, values).await
    }

    /// The idle connection that was used last, if it was used just now or still answers.
    async fn take_idle(&self) -> Option<Connection> {
        let (mut connection, since) = self.idle().connections.pop()?;
        if since.elapsed() < MAX_UNCHECKED_IDLE {
            return Some(connection);
        }
        match timeout(self.config.response_timeout, connection.client.ping()).await {
            Ok(Ok(())) => Some(connection),
            _ => {
                // The others were idle for longer still.
                self.close_idle();
                None
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        locked(&self.idle)
    }

    fn put_back(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        idle.connections.push((connection, Instant::now()));
        let has_closer = std::mem::replace(&mut idle.has_closer, true);
        drop(idle);
        if !has_closer {
            // The task is dropped with its runtime, and then so is the pool.
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(close_expired_connections(Arc::downgrade(self)))),
                Err(_) => self.idle().has_closer = false,
            }
        }
    }

    /// Closes all idle connections.
    fn close_idle(&self) {
        let closed = std::mem::take(&mut self.idle().connections);
        drop(closed);
    }

    /// Closes the connections that were idle for too long; returns when the next of them will be.
    fn close_expired(&self) -> Option<Instant> {
        let mut idle = self.idle();
        let expired = idle.connections.partition_point(|(_, since)| since.elapsed() >= self.idle_timeout);
        let closed: Vec<_> = idle.connections.drain(..expired).collect();
        let next = idle.connections.first().map(|(_, since)| *since + self.idle_timeout);
        idle.has_closer = next.is_some();
        drop(idle);
        drop(closed);
        next
    }
}

async fn close_expired_connections(pool: Weak<Pool>) {
    while let Some(at) = pool.upgrade().and_then(|pool| pool.close_expired()) {
        sleep_until(at).await;
    }
}

impl PooledConnection {
    /// Runs a statement. It is sent again if it conflicted with another transaction and was rolled
    /// back, or if the server had ended the connection while it was idle.
    pub(crate) async fn run(&mut self, statement: &Statement, values: &[Value]) -> Result<Reply, StepError> {
        let pool = self.pool.clone();
        let (mut conflicts, mut termination) = (0, None);
        loop {
            // This future owns the connection meanwhile: if it is dropped, the connection is
            // closed.
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => match connect(&pool.config, pool.kind).await {
                    Ok(connection) => connection,
                    // The statement that was sent before may have been executed.
                    Err(error) => return Err(termination.unwrap_or_else(|| StepError::for_all(error))),
                },
            };
            let was_idle = std::mem::take(&mut self.was_idle);
            let limit = pool.config.response_timeout;
            match timeout(limit, connection.run(pool.kind, statement, values)).await {
                Ok(Ok(rows)) => {
                    let (system, server) = (connection.system.clone(), connection.server.clone());
                    self.connection = Some(connection);
                    return Ok(Reply { rows, system, server, was_resent: termination.is_some() });
                }
                Ok(Err(failed)) if error::is_serialization_conflict(&failed) && conflicts < MAX_CONFLICT_RETRIES => {
                    conflicts += 1;
                    self.connection = Some(connection);
                }
                Ok(Err(failed)) if was_idle && error::is_termination_notice(&failed) => {
                    termination = Some(StepError::classify(&connection.server, statement.action, failed));
                    pool.close_idle();
                }
                Ok(Err(failed)) => return Err(self.fail(connection, statement, failed)),
                Err(_) => {
                    let late = Error::no_answer(
                        format_args!("{}: {}", connection.server, statement.action),
                        limit,
                        Effect::Unknown,
                    );
                    return Err(StepError::for_all(late));
                }
            }
        }
    }

    /// The error of a statement. The connection is kept unless it is of no more use.
    fn fail(&mut self, connection: Connection, statement: &Statement, failed: sqlx::Error) -> StepError {
        let server = connection.server.clone();
        if error::ends_connection(&failed) {
            // The idle connections lead to the same server.
            self.pool.close_idle();
            drop(connection);
        } else {
            self.connection = Some(connection);
        }
        StepError::classify(&server, statement.action, failed)
    }
}

impl Drop for PooledConnection {
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
        let pool = Pool::new(&config, ConnectionKind::Direct, 4, Duration::from_millis(300));
        let mut acquired = Vec::new();
        for _ in 0..4 {
            acquired.push(pool.acquire().await.unwrap());
        }
        let count = "select count(*) from pg_stat_activity where application_name like 'leasehold%'";
        assert_eq!(server.psql(count), "4");
        let mut used = acquired.pop().unwrap();
        drop(acquired);
        until("the end of those that nobody uses", || (server.psql(count) == "1").then_some(()));
        let reply = used.run(&Statement::new("asking", "select 1::bigint as one"), &[]).await;
        assert!(reply.is_ok());
        drop(used);
        until("the end of the last", || (server.psql(count) == "0").then_some(()));
        assert!(pool.acquire().await.unwrap().run(&Statement::new("asking", "select 1"), &[]).await.is_ok());
    }
}
