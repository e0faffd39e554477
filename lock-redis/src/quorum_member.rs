//! The duties of a member of a quorum: raising a token, and keeping the quorum's record.

use lock_core::{
    Claim, Error, ErrorKind, RaiseOutcome, RecordStore, Result, StoredRecord, TokenRaiser, async_trait, random,
};
use redis::Value as Answer;

use crate::error;
use crate::reply::{TokenReply, status};
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::store::RedisStore;
use crate::tokens::{is_realm_id, realm_from_id};
use crate::value::{flag, holder_prefix};

/// The greatest number of a counter, which has no successor.
const MAX_COUNTER: u64 = i64::MAX as u64;

#[async_trait]
impl TokenRaiser for RedisStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        if number >= MAX_COUNTER {
            let text = format!("the token {number} has none after it in Redis");
            return Err(Error::refused(ErrorKind::Protocol, text));
        }
        let key = self.keys.lock(claim.name());
        let slot = self.keys.slot(&key);
        let (holder, number_text) = (holder_prefix(claim.holder()), number.to_string());
        let make_call = |realm_id: &str, _known: u64, may_be_new: bool| {
            let arguments = [&*holder, &number_text, flag(may_be_new)];
            ScriptCall::new(Script::Raise, &[&key, &*self.keys.counter(slot, realm_id)], &arguments)
        };
        let TokenReply { answer, realm_id, connection } = self.run_with_realm(slot, make_call, None).await?;
        match status(&answer) {
            Some("refused") => Ok(RaiseOutcome::Refused),
            Some("raised") => {
                let connections = self.connections()?;
                let acknowledgement = connections.acknowledgement.as_ref();
                self.acknowledge_change(acknowledgement, "the raising of a token", slot, &connection).await?;
                self.tokens.record(&realm_id, slot, number);
                Ok(RaiseOutcome::Raised)
            }
            _ => Err(error::unexpected_reply(&connection.endpoint.to_string(), Script::Raise.action())),
        }
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }
}

#[async_trait]
impl RecordStore for RedisStore {
    async fn read_record(&self) -> Result<StoredRecord> {
        self.run_record(&[&random::hex128()]).await
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        let realm = before.realm.as_str().strip_prefix("redis:").unwrap_or_default();
        let expected = before.text.as_deref().unwrap_or_default();
        let now = self.run_record(&[&random::hex128(), realm, expected, text]).await?;
        Ok(now.realm == before.realm && now.text.as_deref() == Some(text))
    }
}

impl RedisStore {
    /// Reads the record, and replaces it if the arguments say so.
    async fn run_record(&self, arguments: &[&str]) -> Result<StoredRecord> {
        let (realm, record) = (self.keys.realm(), self.keys.quorum_record());
        let (answer, server) =
            self.run_on_realm_slot(ScriptCall::new(Script::Record, &[&*realm, &*record], arguments)).await?;
        match redis::from_redis_value::<(String, String)>(answer) {
            Ok((realm, text)) if is_realm_id(&realm) => {
                Ok(StoredRecord { realm: realm_from_id(&realm), text: Some(text).filter(|text| !text.is_empty()) })
            }
            _ => {
                let text = format!("{server}: what the keys {realm:?} and {record:?} hold is nothing of ours");
                Err(Error::unexpected_reply(text))
            }
        }
    }

    /// Runs a script in the slot of the realm; returns the reply, and the server for error texts.
    async fn run_on_realm_slot(&self, call: ScriptCall) -> Result<(Answer, String)> {
        let slot = self.keys.slot(&self.keys.realm());
        let connections = self.connections()?;
        let (answer, connection) = connections.router.run(slot, call).await?;
        let acknowledgement = connections.acknowledgement.as_ref();
        self.acknowledge_change(acknowledgement, "what is kept for a quorum", slot, &connection).await?;
        Ok((answer, connection.endpoint.to_string()))
    }
}
