//! [`Link`]: the connections to the primary, and how a step goes over one.

use std::sync::Arc;

use lock_core::runtime::PerRuntime;
use lock_core::{Effect, Result};
use sqlx::AssertSqlSafe;
use tokio::time::timeout;

use crate::connection::{Connection, Way};
use crate::dial::{dial, look_for_a_pooler};
use crate::error::Failed;
use crate::pool::{Answer, KEEPS, Pool};
use crate::statement::{Statement, Value};
use crate::{PostgresConfig, error};

/// The connections to the primary. Each runtime has its own; and on each, renewals have theirs, which no other step
/// waits for or holds up.
#[derive(Debug)]
pub(crate) struct Link {
    config: Arc<PostgresConfig>,
    way: Way,
    pools: PerRuntime<Pools>,
}

#[derive(Debug)]
struct Pools {
    steps: Arc<Pool>,
    renewals: Arc<Pool>,
}

/// So many connections renew at most; each renews hundreds of leases at once.
const RENEW: usize = 4;

impl Link {
    /// Finds out what is in the way to the server, unless it is told.
    pub(crate) async fn open(config: &PostgresConfig) -> Result<Link> {
        let way = match config.pooler {
            Some(true) => Way::Pooled,
            Some(false) => Way::Direct,
            None => look_for_a_pooler(config).await?,
        };
        let config = Arc::new(config.clone());
        let pools = PerRuntime::new({
            let config = config.clone();
            move || Pools {
                steps: Pool::new(&config, way, config.connections, KEEPS),
                renewals: Pool::new(&config, way, config.connections.min(RENEW), KEEPS),
            }
        });
        let link = Link { config, way, pools };
        // Fails here, and not at the first lock.
        drop(link.steps()?.take().await?);
        Ok(link)
    }

    pub(crate) fn way(&self) -> Way {
        self.way
    }

    pub(crate) fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// A new connection to the primary, of this runtime.
    pub(crate) async fn dial(&self) -> Result<Connection> {
        dial(&self.config, self.way).await
    }

    /// The connections of this runtime for all but renewals.
    pub(crate) fn steps(&self) -> Result<Arc<Pool>> {
        Ok(self.pools.get()?.steps.clone())
    }

    /// One step.
    pub(crate) async fn run(&self, statement: &Statement, values: &[Value]) -> Result<Answer, Failed> {
        self.steps().map_err(Failed::whole)?.run(statement, values).await
    }

    /// Runs statements without values, as one message.
    pub(crate) async fn script(&self, doing: &str, sql: String) -> Result<()> {
        let mut connection = self.dial().await?;
        let limit = self.config.response_timeout;
        match timeout(limit, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection.client)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(failed)) => Err(error::of_step(&connection.to, doing, failed)),
            Err(_) => Err(error::timed_out(&connection.to, doing, limit, Effect::Unknown)),
        }
    }

    /// One step that renews.
    pub(crate) async fn renew(&self, statement: &Statement, values: &[Value]) -> Result<Answer, Failed> {
        let pools = self.pools.get().map_err(Failed::whole)?;
        pools.renewals.run(statement, values).await
    }
}
