//! [`RedisStore`]: the contract. Its steps stand in the modules that are named for them.

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::runtime::PerRuntime;
use lock_core::{
    Attempt, BreakMode, Claim, Contention, Converter, Eviction, Finding, Guarantees, HeldBy, LockName, LockStore,
    Publisher, Realm, ReleaseOutcome, RenewalBatch, Result, Space, TokenRaiser, async_trait,
};

use crate::config::RedisConfig;
use crate::connections::Connections;
use crate::keys::Keys;
use crate::subscriptions::Channel;
use crate::tokens::Tokens;
use crate::value::InfoSuffixCache;

/// The store in Redis.
///
/// One connection to each server carries everything of one runtime, messages to waiters included;
/// it is made again when needed. Renewals run in the background and have a connection of their own.
/// With `wait` there is one more beside each of these, for the acknowledgement of replicas. The
/// calls of a runtime that are in flight at a server are bounded in number, whatever is asked of
/// it.
///
/// # Cancel safety
///
/// A call whose future is dropped may still be done by the server. A
/// [`release`](LockStore::release) of a claim that is in doubt leaves a tombstone that refuses a
/// late request of the same holder.
pub struct RedisStore {
    pub(crate) config: RedisConfig,
    pub(crate) keys: Keys,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) connections: Arc<PerRuntime<Connections>>,
    pub(crate) guarantees: Guarantees,
    pub(crate) info_suffixes: InfoSuffixCache,
    /// A warning was given of a lock with a token that its counter cannot have given.
    pub(crate) has_warned_of_token: AtomicBool,
    /// The background runtime, which renews, connects or is connected.
    pub(crate) is_background_warm: AtomicBool,
}

/// The store's part of a claim: keeps its channel subscribed while it waits.
#[derive(Default)]
struct ClaimState(Mutex<Option<Arc<Channel>>>);

impl RedisStore {
    /// The connections of the current runtime.
    pub(crate) fn connections(&self) -> Result<Arc<Connections>> {
        self.connections.get()
    }
}

#[async_trait]
impl LockStore for RedisStore {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn realm(&self) -> Realm {
        self.tokens.realm()
    }

    async fn request(&self, claim: &Claim) -> Result<Attempt> {
        self.request_lock(claim).await
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let key = self.keys.lock(claim.name());
        let node = self.connections()?.router.node(self.keys.slot(&key)).await?;
        let (channel, was_subscribed) = node.subscribe(&key).await?;
        let state = claim.store_state(ClaimState::default);
        *state.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        // A new subscription returns at once: a release may have come between the request and it.
        if was_subscribed {
            channel.changed_since(held.version).await;
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) -> Result<()> {
        self.renew_batch(batch).await
    }

    async fn release(&self, claim: &Claim, _linger: Duration) -> Result<ReleaseOutcome> {
        let in_doubt = claim.is_in_doubt();
        let released = self.release_claim(claim, in_doubt).await?;
        if in_doubt {
            // The tombstone refuses a late request.
            claim.clear_doubt();
        }
        Ok(released)
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    fn converter(&self) -> Option<&dyn Converter> {
        None
    }

    fn publisher(&self) -> Option<&dyn Publisher> {
        None
    }

    async fn inspect(&self, name: &LockName, _space: Space) -> Result<Vec<HeldBy>> {
        let held = self.holders_of(std::slice::from_ref(name)).await?;
        Ok(held.into_iter().map(|(_, by)| by).collect())
    }

    async fn list(
        &self,
        _space: Space,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<(LockName, Vec<HeldBy>)>> {
        self.list_after(after, limit).await
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        self.evict(name, seen, how).await
    }

    async fn new_realm(&self) -> Result<Realm> {
        self.begin_realm().await
    }

    async fn diagnose(&self) -> Result<Vec<Finding>> {
        self.findings().await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.config).field("realm", &self.realm()).finish_non_exhaustive()
    }
}
