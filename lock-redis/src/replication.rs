//! Waiting for replicas after a grant or a change.

use lock_core::{Claim, Effect, Error, ErrorKind, Result};

use crate::acknowledgement::Acknowledgement;
use crate::connection::Connection;
use crate::store::RedisStore;

impl RedisStore {
    /// Waits for the replicas after a grant; releases the lease if too few acknowledge it.
    pub(crate) async fn acknowledge_grant(
        &self,
        acknowledgement: &Acknowledgement,
        claim: &Claim,
        slot: u16,
        granted_on: &Connection,
    ) -> Result<()> {
        let acknowledged = acknowledgement.count(granted_on, self.keys.ack_marker(slot)).await;
        let text = match acknowledged {
            Ok(replicas) if replicas >= acknowledgement.required() => return Ok(()),
            Ok(replicas) => format!(
                "\"{}\" was granted, and {replicas} of {} replicas acknowledged it within {:?}",
                claim.name(),
                acknowledgement.required(),
                acknowledgement.timeout()
            ),
            Err(error) => {
                format!("\"{}\" was granted, and its replicas could not be asked: {error}", claim.name())
            }
        };
        // Without a tombstone: the same holder may request again.
        match self.release_claim(claim, false).await {
            Ok(_) => Err(Error::refused(ErrorKind::Unavailable, format!("{text}; it is given back"))),
            Err(error) => {
                let text = format!("{text}; giving it back failed");
                Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error))
            }
        }
    }

    /// Waits for the replicas after a change. If too few acknowledge it, it may or may not stay.
    pub(crate) async fn acknowledge_change(
        &self,
        acknowledgement: Option<&Acknowledgement>,
        what: &str,
        slot: u16,
        connection: &Connection,
    ) -> Result<()> {
        let Some(acknowledgement) = acknowledgement else { return Ok(()) };
        let replicas = acknowledgement.count(connection, self.keys.ack_marker(slot)).await?;
        if replicas >= acknowledgement.required() {
            return Ok(());
        }
        let text = format!(
            "{}: {replicas} of {} replicas acknowledged {what} within {:?}",
            connection.endpoint,
            acknowledgement.required(),
            acknowledgement.timeout()
        );
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }
}
