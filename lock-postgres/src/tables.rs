//! [`look`] and [`init`]: the tables as they are, and as they are made.

use lock_core::{Error, ErrorKind, Realm, Result};
use sqlx::Row as _;

use crate::link::Link;
use crate::sql::Sql;
use crate::statement::Value;
use crate::{PostgresConfig, error, realms, schema};

/// What the tables say of themselves.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) realm: Realm,
    /// What is written to them is written to the server's log.
    pub(crate) is_logged: bool,
}

/// Looks whether the tables are there, and are what this configuration needs.
pub(crate) async fn look(link: &Link) -> Result<Tables> {
    let (table, mode) = (&link.config().table, link.config().mode);
    let statement = Sql::new(table).meta;
    let answer = link.run(&statement, &[Value::text(table.schema()), Value::text(table.name())]).await?;
    let odd = || error::odd(&answer.to, statement.doing);
    let refuse = |text: String| Error::refused(ErrorKind::InvalidConfig, format!("{}: {text}", answer.to));
    let Some(row) = answer.rows.first() else {
        return Err(refuse(format!("the table {table} was not finished: `leasehold init URL` makes it")));
    };
    let text = |column: &str| row.try_get::<String, _>(column).map_err(|_| odd());
    let version: i32 = row.try_get("version").map_err(|_| odd())?;
    if let Some(wrong) = schema::wrong(table, mode, version, &text("mode")?) {
        return Err(refuse(wrong));
    }
    let persistence: Option<String> = row.try_get("persistence").map_err(|_| odd())?;
    let Some(persistence) = persistence else {
        return Err(refuse(format!("the table {table} is missing: `leasehold init URL` makes it")));
    };
    Ok(Tables { realm: Realm::new(realms::text(&answer.system, &text("realm")?)), is_logged: persistence == "p" })
}

/// Makes the tables of this configuration where they are missing; changes nothing where they are there. `leasehold init`
/// does it.
///
/// # Errors
///
/// [`InvalidConfig`](ErrorKind::InvalidConfig) for settings that cannot be used, and tables of a newer program or of the
/// other mode; [`Denied`](ErrorKind::Denied) if this user may not make tables; [`Unavailable`](ErrorKind::Unavailable)
/// or [`TimedOut`](ErrorKind::TimedOut).
///
/// # Cancel safety
///
/// All of it is made, or nothing.
pub async fn init(config: PostgresConfig) -> Result<()> {
    config.check()?;
    let link = Link::open(&config).await?;
    link.script("making the tables", schema::script(&config)).await?;
    look(&link).await.map(|_| ())
}
