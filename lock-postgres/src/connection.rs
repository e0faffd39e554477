//! [`Connection`]: one connection to the primary.

use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::statement::{Statement, Value};

/// The way in which steps go over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionKind {
    /// A server connection of its own: it keeps its settings and its prepared statements.
    Direct,
    /// A pooler may route each transaction to another server connection: each step is one
    /// self-contained message.
    Pooled,
}

/// One connection to the primary.
pub(crate) struct Connection {
    pub(crate) client: PgConnection,
    /// The system identifier from `pg_control_system()`; empty if this user may not read it.
    pub(crate) system: Arc<str>,
    /// The server and the database, for messages.
    pub(crate) server: Arc<str>,
    /// The options that it was opened with, for a second connection that listens.
    pub(crate) options: PgConnectOptions,
}

/// The search path of all statements: only the system catalog, so that no function or operator of
/// the same name in another schema of the user's path is called instead, one that puts the clock
/// forward, say. The temporary schema, which is otherwise searched first, comes last.
pub(crate) const SEARCH_PATH: (&str, &str) = ("search_path", "pg_catalog,pg_temp");

/// The settings of every step, whatever the defaults of the database and of the user are.
///
/// `synchronous_commit`: a grant is on the disk before it is answered. `lock_timeout` limits the
/// wait for a row.
pub(crate) const SETTINGS: [(&str, &str); 4] =
    [SEARCH_PATH, ("synchronous_commit", "on"), ("lock_timeout", "1s"), ("idle_in_transaction_session_timeout", "10s")];

/// The statement that sets this for the rest of a transaction.
pub(crate) fn set_local((name, value): (&str, &str)) -> String {
    let words: Vec<_> = value.split(',').map(|word| format!("'{word}'")).collect();
    format!("set local {name} = {}", words.join(", "))
}

impl Connection {
    /// Runs one statement, without a time limit.
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
                // One message is one transaction, and one transaction is on one server connection.
                // The settings are local to it.
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
