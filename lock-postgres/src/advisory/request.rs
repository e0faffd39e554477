//! Requesting locks over the connections that have them.

use lock_core::{Attempt, Claim, Contention, Effect, Error, ErrorKind, FencingToken, Lease, Realm, Result, Retention};

use super::claim_state::ClaimState;
use super::command::Acquisition;
use super::connection::{LockConnection, is_connection_lost};
use super::store::AdvisoryStore;
use crate::row::Row;

/// Maximum number of connections that one request tries.
const MAX_CONNECTIONS_TRIED: usize = 3;

impl AdvisoryStore {
    /// Requests the lock of this claim.
    pub(super) async fn acquire(&self, claim: &Claim) -> Result<Attempt> {
        let key = self.form.key(claim.name())?;
        // A connection that has ended unnoticed has no locks: the request is repeated on a new one.
        for _ in 0..MAX_CONNECTIONS_TRIED {
            let connection = self.connection_for(claim).await?;
            match connection.acquire(claim, key).await {
                None => {}
                // The server has freed what that connection had.
                Some(Err(error)) if is_connection_lost(&error) => {}
                Some(Err(error)) => return Err(error),
                Some(Ok(Acquisition::Granted(row, realm))) => {
                    ClaimState::of(claim).set_granted(true);
                    return Ok(Attempt::Granted(self.lease(claim, connection, &row, realm)));
                }
                Some(Ok(Acquisition::Held)) => {
                    let by = self.read_holder(claim.name(), key).await?.unwrap_or_default();
                    return Ok(Attempt::Held(Contention::new(by, self.database.config().poll_interval)));
                }
            }
        }
        let location = self.database.config().location();
        let text = format!("{location}: each connection that was to have the lock ended at once");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }

    fn lease(&self, claim: &Claim, connection: LockConnection, row: &Row, realm: Realm) -> Lease {
        let token = Some(FencingToken::new(self.realm.adopt(realm), row.token));
        let retention = Retention::Since(row.up);
        if claim.is_fixed() {
            return Lease::new(claim.ttl(), token, retention);
        }
        let mut lease = Lease::on_session(connection.session, token, retention);
        lease.ttl = lease.ttl.min(claim.ttl());
        lease
    }

    async fn connection_for(&self, claim: &Claim) -> Result<LockConnection> {
        let state = ClaimState::of(claim);
        if let Some(connection) = state.connection().filter(LockConnection::is_open) {
            return Ok(connection);
        }
        let connection = match claim.is_fixed() {
            true => self.connections.open_single(claim.ttl()).await?,
            false => (*self.sessions.for_ttl(&self.connections, claim.ttl()).await?).clone(),
        };
        if !claim.is_fixed() {
            // Before its lock is requested, or a heartbeat would unlock it as unwanted.
            connection.session.carry(claim);
        }
        state.set_connection(&connection);
        Ok(connection)
    }
}
