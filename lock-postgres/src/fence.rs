//! [`FenceCondition`]: the fence in the caller's own transaction, as data.

use lock_core::Result;

use crate::table::Table;

/// The fence in the caller's own transaction, as statements for any client.
///
/// The data that a lock protects is in the same database: then the transaction that writes it reads the lease row first,
/// and holds on to it until it ends. A later holder's grant waits for that end; a renewal does not.
///
/// ```
/// let fence = lock_postgres::FenceCondition::of_table("public.leasehold")?;
/// assert_eq!(
///     fence.check(),
///     "select 1 from \"public\".\"leasehold\" where name = $1 and token = $2 and holder = $3 for key share"
/// );
/// # Ok::<(), lock_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FenceCondition {
    check: String,
    demand: String,
}

impl FenceCondition {
    /// The fence by the leases of this table.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a name that is none of a table of leases.
    pub fn of_table(name: &str) -> Result<FenceCondition> {
        Ok(FenceCondition::of(&Table::parse(name)?))
    }

    pub(crate) fn of(table: &Table) -> FenceCondition {
        let leases = table.leases();
        let held = "name = $1 and token = $2 and holder = $3 for key share";
        FenceCondition {
            check: format!("select 1 from {leases} where {held}"),
            demand: format!(
                "select 1 / (select count(*) from (select 1 from {leases} where {held}) as held)::integer as held"
            ),
        }
    }

    /// The first statement of the transaction: `$1` is the lock's name, `$2` the number of its token (a `bigint`) and
    /// `$3` its holder as text. One row: this holder has the lock until the transaction ends, whatever its clock says.
    /// No row: it has not; roll back.
    ///
    /// Token *and* holder: after a release, or where an operator broke the lock, the token alone may still be the row's.
    pub fn check(&self) -> &str {
        &self.check
    }

    /// The same as a statement that fails (SQLSTATE 22012, division by zero) where [`check`](FenceCondition::check) gives no
    /// row, so that the transaction cannot commit though nobody looks at its answers.
    pub fn demand(&self) -> &str {
        &self.demand
    }
}
