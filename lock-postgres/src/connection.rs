//! [`Connection`]: one connection to the primary.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::statement::{Statement, Value};

/// How steps go over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    /// The connection is ours: it has the settings that we gave it, and remembers what was prepared.
    Direct,
    /// Each transaction may go over another server connection: every step is one message that says all it needs.
    Pooled,
}

/// One connection to the primary.
pub(crate) struct Connection {
    pub(crate) client: PgConnection,
    /// What `pg_control_system()` says of the data; empty if this user may not ask.
    pub(crate) system: Arc<str>,
    /// Where it leads to, for people.
    pub(crate) server: Arc<str>,
    /// How it was reached; for a connection that listens.
    pub(crate) options: PgConnectOptions,
}

/// What the words of our statements mean is the server's to say, and nobody else's: a function or an operator of the same
/// name in a schema that a user's path has first could put the clock forward. Temporary things, which are otherwise looked
/// for first, come last.
pub(crate) const SEARCH_PATH: (&str, &str) = ("search_path", "pg_catalog,pg_temp");

/// The settings under which steps run, whatever the defaults of the database and of the user are.
///
/// `synchronous_commit`: a grant that was answered is on the disk. `lock_timeout`: no step waits for a row for long.
pub(crate) const SETTINGS: [(&str, &str); 4] =
    [SEARCH_PATH, ("synchronous_commit", "on"), ("lock_timeout", "1s"), ("idle_in_transaction_session_timeout", "10s")];

/// The statement that makes a setting for the rest of a transaction.
pub(crate) fn set_local((name, value): (&str, &str)) -> String {
    let words: Vec<_> = value.split(',').map(|word| format!("'{word}'")).collect();
    format!("set local {name} = {}", words.join(", "))
}

impl Connection {
    /// One statement, without a bound.
    pub(crate) async fn run(
        &mut self,
        kind: ConnectionKind,
        statement: &Statement,
        values: &[Value],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        match kind {
            ConnectionKind::Direct => {
                let mut query = sqlx::query(AssertSqlSafe(statement.sql.clone()));
                for value in values {
                    query = match value.clone() {
                        Value::Text(text) => query.bind(text),
                        Value::Number(number) => query.bind(number),
                        Value::Texts(texts) => query.bind(texts),
                        Value::Numbers(numbers) => query.bind(numbers),
                    };
                }
                query.fetch_all(&mut self.client).await
            }
            ConnectionKind::Pooled => {
                // One message is one transaction, and one transaction is on one server connection. The settings are
                // its own and end with it.
                let text = format!(
                    "set transaction isolation level read committed, read write; {}; {}",
                    SETTINGS.map(set_local).join("; "),
                    statement.inlined(values)
                );
                sqlx::raw_sql(AssertSqlSafe(text)).fetch_all(&mut self.client).await
            }
        }
    }
}
