//! The realm of the data: reading it, beginning a new one, and scripts that depend on it.

use std::sync::Arc;

use lock_core::{Error, ErrorKind, Realm, Result, random};

use crate::reply::{TokenReply, status};
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::store::RedisStore;
use crate::tokens::{is_realm_id, realm_from_id};
use crate::value::flag;

/// Retries of a call after the realm was found to have changed.
const MAX_REALM_CHANGES: usize = 4;

impl RedisStore {
    /// The id of the realm; a new realm begins if there is none, or with `anew`.
    pub(crate) async fn read_realm(&self, anew: bool) -> Result<String> {
        let key = self.keys.realm();
        let call = ScriptCall::new(Script::Realm, &[&*key], &[&random::hex128(), flag(anew)]);
        let (answer, connection) = self.connections()?.router.run(self.keys.slot(&key), call).await?;
        let realm = redis::from_redis_value::<String>(answer).ok().filter(|realm| is_realm_id(realm));
        realm.ok_or_else(|| {
            let text = format!("{}: what the key {key:?} holds is no realm of ours", connection.endpoint);
            Error::refused(ErrorKind::Protocol, text)
        })
    }

    /// Reads the realm again after a counter was found to be new; true if it is still `id`.
    async fn is_realm_unchanged(&self, id: &str) -> Result<bool> {
        let now = self.read_realm(false).await?;
        if self.tokens.adopt(&now) {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                before = %realm_from_id(id),
                now = %realm_from_id(&now),
                "the data is of another realm now: it was lost, or a new realm was begun; tokens before and after do not compare"
            );
        }
        Ok(now == id)
    }

    /// Runs a script that takes a token. `make_call` is given the id of the realm, the highest
    /// token known, and whether the counter may be new. `new_in` is the realm in which an earlier
    /// call has found the counter to be new.
    pub(crate) async fn run_with_realm(
        &self,
        slot: u16,
        make_call: impl Fn(&str, u64, bool) -> ScriptCall,
        mut new_in: Option<Arc<str>>,
    ) -> Result<TokenReply> {
        for _ in 0..MAX_REALM_CHANGES {
            let may_be_new = match new_in {
                Some(id) => self.is_realm_unchanged(&id).await?,
                None => false,
            };
            let (realm_id, known) = self.tokens.snapshot(slot);
            let call = make_call(&realm_id, known, may_be_new);
            let (answer, connection) = self.connections()?.router.run(slot, call).await?;
            if status(&answer) != Some("new") {
                return Ok(TokenReply { answer, realm_id, connection });
            }
            new_in = Some(realm_id);
        }
        let text = "the realm of the data changed again and again while a lock was asked for";
        Err(Error::refused(ErrorKind::Unavailable, text))
    }

    /// Begins a new realm, in which the counters continue.
    pub(crate) async fn begin_realm(&self) -> Result<Realm> {
        let old = self.read_realm(false).await?;
        // The realm first: a process that finds the counters gone reads it again.
        let new = self.read_realm(true).await?;
        self.move_counters(&old, &new).await?;
        self.tokens.adopt(&new);
        Ok(self.tokens.realm())
    }

    /// Renames the counters of the old realm, so that they continue in the new one.
    async fn move_counters(&self, old: &str, new: &str) -> Result<()> {
        let (pattern, ending) = self.keys.counters(old);
        let connections = self.connections()?;
        for node in connections.router.all().await? {
            let mut cursor = 0;
            loop {
                let (next, keys) = self.scan(&node, cursor, &pattern).await?;
                for counter in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                    let Some(start) = counter.strip_suffix(&ending) else { continue };
                    let renamed = format!("{start}token:{new}");
                    let slot = self.keys.slot(&counter);
                    connections
                        .router
                        .run(slot, ScriptCall::new(Script::MoveCounter, &[counter, renamed], &[]))
                        .await?;
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}
