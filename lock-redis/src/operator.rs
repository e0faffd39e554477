//! Breaking a lock for an operator.

use std::time::Duration;

use lock_core::{BreakMode, Error, ErrorKind, Eviction, HeldBy, Holder, LockName, Result};
use redis::Value as Answer;

use crate::connection::Connection;
use crate::error;
use crate::reply::{TokenReply, int_at, remaining_from_pttl, status, text_at};
use crate::script::Script;
use crate::script_call::ScriptCall;
use crate::store::RedisStore;
use crate::tokens::{MAX_TOKEN_LEAD, realm_from_id};
use crate::value::{LockValue, flag, holder_prefix};

impl RedisStore {
    /// Ends the lease of the holder that was seen; `None` if the lock has another holder or none.
    pub(crate) async fn evict(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let key = self.keys.lock(name);
        let Some(holder) = seen.holder else {
            let text = format!(
                "\"{name}\" is held by another program, whose lock cannot be broken from here: if nobody needs it, delete the key {key:?}"
            );
            return Err(Error::refused(ErrorKind::Denied, text));
        };
        let slot = self.keys.slot(&key);
        let replacement = match how {
            BreakMode::Revoke => holder_prefix(Holder::fresh()),
            BreakMode::Now => String::new(),
        };
        let make_call = |realm_id: &str, known: u64, may_be_new: bool| {
            let arguments = [
                &*holder_prefix(holder),
                &replacement,
                &known.to_string(),
                flag(may_be_new),
                &MAX_TOKEN_LEAD.to_string(),
            ];
            ScriptCall::new(Script::Break, &[&key, &*self.keys.counter(slot, realm_id)], &arguments)
        };
        let TokenReply { answer, realm_id, connection } = self.run_with_realm(slot, make_call, None).await?;
        match (status(&answer), &answer) {
            (Some("other"), _) => Ok(None),
            (Some("endless"), _) => {
                let text = format!(
                    "\"{name}\" has no expiry, which something else took from it: revoked, it would stay blocked for ever; break it with `--now` (`Break::Now`), and it is free"
                );
                Err(Error::refused(ErrorKind::Denied, text))
            }
            (Some("broken"), Answer::Array(parts)) => {
                let eviction = self.parse_eviction(name, how, slot, &realm_id, parts);
                eviction.map(Some).ok_or_else(|| unexpected(&connection))
            }
            _ => Err(unexpected(&connection)),
        }
    }

    /// The eviction in the reply of the script; `None` for a reply that the script does not give.
    fn parse_eviction(
        &self,
        name: &LockName,
        how: BreakMode,
        slot: u16,
        realm_id: &str,
        parts: &[Answer],
    ) -> Option<Eviction> {
        let token: u64 = text_at(parts, 1)?.parse().ok()?;
        let (Answer::BulkString(value), pttl) = (parts.get(3)?, int_at(parts, 4)?) else { return None };
        self.warn_if_raised(int_at(parts, 2) == Some(1), name, token);
        let remaining = remaining_from_pttl(pttl);
        let evicted = LockValue::parse(value).into_held_by(&realm_from_id(realm_id), remaining);
        let free_in = if how == BreakMode::Revoke { remaining.unwrap_or_default() } else { Duration::ZERO };
        Some(Eviction::new(evicted, Some(self.tokens.record(realm_id, slot, token)), free_in))
    }
}

fn unexpected(connection: &Connection) -> Error {
    error::unexpected_reply(&connection.endpoint.to_string(), Script::Break.action())
}
