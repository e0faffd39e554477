//! Renewing leases in a batch.

use lock_core::{Claim, Renewal, RenewalOutcome, Result};
use sqlx::Row as _;

use crate::error;
use crate::row::to_micros;
use crate::statement::{Statement, Value};
use crate::store::PostgresStore;

impl PostgresStore {
    /// Renews these leases. Those whose rows another transaction has locked are renewed in a second
    /// statement, which waits for the rows: they must not delay the others.
    pub(crate) async fn renew_leases(&self, entries: &[(&Renewal, &Claim)]) -> Result<()> {
        let locked = self.renew_with(&self.statements.renew, entries).await?;
        if !locked.is_empty() {
            self.renew_with(&self.statements.renew_blocking, &locked).await?;
        }
        Ok(())
    }

    /// Renews with this statement; returns the entries whose rows another transaction has locked.
    async fn renew_with<'a>(
        &self,
        statement: &Statement,
        entries: &[(&'a Renewal, &'a Claim)],
    ) -> Result<Vec<(&'a Renewal, &'a Claim)>> {
        let texts = |text: fn(&Claim) -> String| entries.iter().map(|(_, claim)| text(claim)).collect();
        let values = [
            Value::Texts(texts(|claim| claim.name().to_string())),
            Value::Texts(texts(|claim| claim.holder().to_string())),
            Value::Numbers(entries.iter().map(|(_, claim)| to_micros(claim.ttl())).collect()),
        ];
        let reply = self.database.renew(statement, &values).await?;
        let unexpected = || error::unexpected_reply(&reply.server, statement.action);
        let mut locked = Vec::new();
        for row in &reply.rows {
            let number: i64 = row.try_get("entry").map_err(|_| unexpected())?;
            let index = usize::try_from(number - 1).map_err(|_| unexpected())?;
            let (entry, claim) = *entries.get(index).ok_or_else(unexpected)?;
            let flag = |name: &str| row.try_get::<bool, _>(name).map_err(|_| unexpected());
            match (flag("renewed")?, flag("locked")?) {
                (true, _) => entry.answer(RenewalOutcome::HeldFor(claim.ttl())),
                (false, true) => locked.push((entry, claim)),
                (false, false) => entry.answer(RenewalOutcome::NotHeld),
            }
        }
        Ok(locked)
    }
}
