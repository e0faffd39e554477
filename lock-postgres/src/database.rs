//! [`Database`]: the connections to the primary.

use std::sync::Arc;

use lock_core::runtime::PerRuntime;
use lock_core::{Effect, Error, Result};
use sqlx::AssertSqlSafe;
use tokio::time::timeout;

use crate::config::PostgresConfig;
use crate::connection::{Connection, ConnectionKind};
use crate::error::{self, StepError};
use crate::pool::{IDLE_TIMEOUT, Pool, Reply};
use crate::primary::{connect, detect_pooler};
use crate::statement::{Statement, Value};

/// The connections to the primary. Each runtime has its own pools: one for renewals, and one for
/// all other steps, so that neither delays the other.
#[derive(Debug)]
pub(crate) struct Database {
    config: Arc<PostgresConfig>,
    kind: ConnectionKind,
    pools: PerRuntime<Pools>,
}

#[derive(Debug)]
struct Pools {
    steps: Arc<Pool>,
    renewals: Arc<Pool>,
}

/// Maximum number of connections for renewals; each renews hundreds of leases at once.
const MAX_RENEWAL_CONNECTIONS: usize = 4;

impl Database {
    /// Opens a first connection, and detects a pooler unless the configuration says whether there
    /// is one.
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Database> {
        let kind = match config.pooler {
            Some(true) => ConnectionKind::Pooled,
            Some(false) => ConnectionKind::Direct,
            None => detect_pooler(config).await?,
        };
        let config = Arc::new(config.clone());
        let pools = PerRuntime::new({
            let config = config.clone();
            move || Pools {
                steps: Pool::new(&config, kind, config.connections, IDLE_TIMEOUT),
                renewals: Pool::new(&config, kind, config.connections.min(MAX_RENEWAL_CONNECTIONS), IDLE_TIMEOUT),
            }
        });
        let database = Database { config, kind, pools };
        // So that a failure is reported here, and not at the first lock.
        drop(database.steps()?.acquire().await?);
        Ok(database)
    }

    pub(crate) fn kind(&self) -> ConnectionKind {
        self.kind
    }

    pub(crate) fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// Opens a connection to the primary outside the pools, on this runtime.
    pub(crate) async fn connect(&self) -> Result<Connection> {
        connect(&self.config, self.kind).await
    }

    /// The pool of this runtime for all steps but renewals.
    pub(crate) fn steps(&self) -> Result<Arc<Pool>> {
        Ok(self.pools.get()?.steps.clone())
    }

    /// Runs one statement.
    pub(crate) async fn run(&self, statement: &Statement, values: &[Value]) -> Result<Reply, StepError> {
        self.steps().map_err(StepError::for_all)?.run(statement, values).await
    }

    /// Runs statements without values, as one message.
    pub(crate) async fn script(&self, action: &str, sql: String) -> Result<()> {
        let mut connection = self.connect().await?;
        let limit = self.config.response_timeout;
        match timeout(limit, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection.client)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failed)) => Err(error::classify(&connection.server, action, failed)),
            Err(_) => Err(Error::no_answer(format_args!("{}: {action}", connection.server), limit, Effect::Unknown)),
        }
    }

    /// Runs one statement that renews.
    pub(crate) async fn renew(&self, statement: &Statement, values: &[Value]) -> Result<Reply, StepError> {
        let pools = self.pools.get().map_err(StepError::for_all)?;
        pools.renewals.run(statement, values).await
    }
}
