//! [`FenceCondition`]: the fence in the caller's own transaction.

use lock_core::Result;

use crate::table::Table;

/// The fence in the caller's own transaction, as statements for any client.
///
/// It is for data in the same database: the transaction that writes the data first reads and locks
/// the lease row. A later holder's grant waits until the transaction ends; a renewal does not.
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
    /// The fence for the leases of this table.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for a name that no table of leases
    /// can have.
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

    /// The first statement of the transaction: `$1` is the lock's name, `$2` the number of its
    /// token (a `bigint`) and `$3` its holder as text. One row: this holder has the lock until the
    /// transaction ends, whatever its clock says. No row: it has not; roll back.
    ///
    /// It compares token *and* holder: after a release, or after an operator broke the lock, the
    /// row may still have the token.
    pub fn check(&self) -> &str {
        &self.check
    }

    /// The same as a statement that fails (SQLSTATE 22012, division by zero) where
    /// [`check`](FenceCondition::check) gives no row, so that the transaction cannot commit even if
    /// the caller ignores the results.
    pub fn demand(&self) -> &str {
        &self.demand
    }
}
