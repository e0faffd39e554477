//! x
use crate::*;
use lock_core::{Clock, LockStore, Result};
/// x
#[derive(Debug)]
pub struct AdvisoryStore(PostgresStore);
impl AdvisoryStore {
    /// x
    pub async fn connect(c: PostgresConfig, _k: &Clock) -> Result<PostgresStore> {
        PostgresStore::connect(c).await
    }
}
