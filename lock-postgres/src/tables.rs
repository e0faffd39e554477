//! [`read`] and [`init`]: check the tables, and create them.

use lock_core::{Error, Realm, Result};
use sqlx::Row as _;

use crate::config::PostgresConfig;
use crate::database::Database;
use crate::statement::Value;
use crate::statements::Statements;
use crate::{error, realm_cache, schema};

/// The facts about the tables.
#[derive(Debug)]
pub(crate) struct TableInfo {
    pub(crate) realm: Realm,
    /// Writes to them go to the server's log (WAL).
    pub(crate) is_logged: bool,
}

/// Checks that the tables exist, and are those that this configuration needs.
pub(crate) async fn read(database: &Database) -> Result<TableInfo> {
    let (table, mode) = (&database.config().table, database.config().mode);
    let statement = Statements::new(table).meta;
    let reply = database.run(&statement, &[Value::text(table.schema()), Value::text(table.name())]).await?;
    let unexpected = || error::unexpected_reply(&reply.server, statement.action);
    let refuse = |text: String| Error::invalid_config(format!("{}: {text}", reply.server));
    let Some(row) = reply.rows.first() else {
        return Err(refuse(format!("the table {table} was not finished: `leasehold init URL` makes it")));
    };
    let text = |column: &str| row.try_get::<String, _>(column).map_err(|_| unexpected());
    let version: i32 = row.try_get("version").map_err(|_| unexpected())?;
    if let Some(mismatch) = schema::mismatch(table, mode, version, &text("mode")?) {
        return Err(refuse(mismatch));
    }
    let persistence: Option<String> = row.try_get("persistence").map_err(|_| unexpected())?;
    let Some(persistence) = persistence else {
        return Err(refuse(format!("the table {table} is missing: `leasehold init URL` makes it")));
    };
    Ok(TableInfo {
        realm: Realm::new(realm_cache::realm_text(&reply.system, &text("realm")?)),
        is_logged: persistence == "p",
    })
}

/// Creates the tables of this configuration where they are missing; it is idempotent.
/// `leasehold init` does it.
///
/// # Errors
///
/// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for settings that cannot be used, and
/// tables of a newer program or of the other mode; [`Denied`](lock_core::ErrorKind::Denied) if this
/// user may not create tables; [`Unavailable`](lock_core::ErrorKind::Unavailable) or
/// [`TimedOut`](lock_core::ErrorKind::TimedOut).
///
/// # Cancel safety
///
/// All of it is created, or nothing.
pub async fn init(config: PostgresConfig) -> Result<()> {
    config.check()?;
    let database = Database::open(&config).await?;
    database.script("making the tables", schema::script(&config)).await?;
    read(&database).await.map(|_| ())
}
