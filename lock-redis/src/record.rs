//! What a server keeps for a quorum that it is a member of.

use lock_core::{Effect, Error, ErrorKind, Holder, RecordStore, Result, StoredRecord, async_trait};

use crate::RedisStore;
use crate::node::ScriptCall;
use crate::script::Script;
use crate::tokens::{is_realm_id, realm_from_id};

#[async_trait]
impl RecordStore for RedisStore {
    async fn read_record(&self) -> Result<StoredRecord> {
        self.run_record(&[&Holder::fresh().to_string()]).await
    }

    async fn replace_record(&self, before: &StoredRecord, text: &str) -> Result<bool> {
        let realm = before.realm.as_str().strip_prefix("redis:").unwrap_or_default();
        let was = before.text.as_deref().unwrap_or_default();
        let now = self.run_record(&[&*Holder::fresh().to_string(), realm, was, text]).await?;
        Ok(now.realm == before.realm && now.text.as_deref() == Some(text))
    }
}

impl RedisStore {
    async fn run_record(&self, arguments: &[&str]) -> Result<StoredRecord> {
        let (realm, kept) = (self.keys().realm(), self.keys().quorum_record());
        let (answer, to) =
            self.run_on_realm_slot(ScriptCall::new(Script::Record, &[&*realm, &*kept], arguments)).await?;
        match redis::from_redis_value::<(String, String)>(answer) {
            Ok((realm, text)) if is_realm_id(&realm) => {
                Ok(StoredRecord { realm: realm_from_id(&realm), text: Some(text).filter(|text| !text.is_empty()) })
            }
            _ => {
                let text = format!("{to}: what the keys {realm:?} and {kept:?} hold is nothing of ours");
                Err(Error::new(ErrorKind::Protocol, Effect::Unknown, text))
            }
        }
    }
}
