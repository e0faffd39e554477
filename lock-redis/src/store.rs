//! [`RedisStore`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use lock_core::runtime::{PerRuntime, background};
use lock_core::{
    Attempt, Beat, BreakMode, Claim, Contention, Effect, Error, ErrorKind, Eviction, Guarantees, HeldBy, Holder, Lease,
    LockName, LockStore, RaiseOutcome, Realm, RecordStore, ReleaseOutcome, Renewal, RenewalBatch, RenewalOutcome,
    Result, TokenRaiser, async_trait,
};
use redis::Value as Answer;

use crate::acknowledgement::Acknowledgement;
use crate::batcher::{Batcher, Dispatch, Op, tombstone_ttl_ms};
use crate::config::Topology;
use crate::connections::Connections;
use crate::connector::Connector;
use crate::keys::Keys;
use crate::node::{Connection, Node, ScriptCall};
use crate::reply::{RequestReply, int_at, remaining_from_pttl, status, text_at};
use crate::router::{Routed, Router};
use crate::script::Script;
use crate::server_info::{self, ServerInfo};
use crate::subscriptions::Channel;
use crate::tokens::{MAX_TOKEN_LEAD, Tokens, is_realm_id, realm_from_id};
use crate::value::{InfoSuffixCache, LockValue, flag, holder_prefix, millis};
use crate::{Finding, RedisConfig, error};

/// The store in Redis.
///
/// One connection to each server carries everything that one runtime asks for, waiters' messages among it; it is made
/// again when it is needed. Renewals go on in the background, and so have one of their own. With `wait` there is one more
/// beside each of these, which asks for the replicas' acknowledgement. What a runtime has under way at a server is bounded
/// in number, whatever is asked of it.
///
/// # Cancel safety
///
/// A step whose future is dropped may still be done by the server. [`release`](LockStore::release) of a claim that is
/// unclear leaves a mark that a late request of the same holder meets.
pub struct RedisStore {
    config: RedisConfig,
    keys: Keys,
    tokens: Arc<Tokens>,
    connections: Arc<PerRuntime<Connections>>,
    guarantees: Guarantees,
    info_suffixes: InfoSuffixCache,
    /// It was said that a lock has a token which its counter cannot have given.
    has_warned_of_token: AtomicBool,
    /// What renews in the background connects, or is connected.
    is_background_warm: AtomicBool,
}

/// So many keys are looked at with one call.
const MAX_INSPECT_BATCH: usize = 256;
/// When to look again at a lock of another program, which tells nobody of its release.
const FOREIGN_POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The greatest number that a counter can have, after which there is no other.
const MAX_COUNTER: u64 = i64::MAX as u64;
/// So often is a step asked again after the realm was found to be another.
const MAX_REALM_CHANGES: usize = 4;

/// What the store keeps with a claim: that its channel is heard as long as it waits.
#[derive(Default)]
struct ClaimState(Mutex<Option<Arc<Channel>>>);

impl RedisStore {
    /// Connects, reads what the server says of itself and of its data, and warns of what endangers locks.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for settings that cannot be used, a server that is too old, or one
    /// that is a replica; [`Denied`](ErrorKind::Denied) for a wrong login or one that may not do what is needed;
    /// [`Unavailable`](ErrorKind::Unavailable) or [`TimedOut`](ErrorKind::TimedOut) within the connect time-out.
    ///
    /// # Cancel safety
    ///
    /// At most an identity of the data was written, which is used again.
    pub async fn connect(config: RedisConfig) -> Result<RedisStore> {
        config.check()?;
        let keys = Keys::new(&config.prefix, matches!(config.topology, Topology::Cluster(_)))?;
        let (connector, tokens) = (Connector::new(&config)?, Arc::new(Tokens::default()));
        let connections = {
            let (config, keys, tokens) = (config.clone(), keys.clone(), tokens.clone());
            Arc::new(PerRuntime::new(move || Connections::new(&config, &connector, &keys, &tokens)))
        };
        let mut store = RedisStore {
            config,
            keys,
            tokens,
            connections,
            guarantees: Guarantees::NONE,
            info_suffixes: InfoSuffixCache::default(),
            has_warned_of_token: AtomicBool::new(false),
            is_background_warm: AtomicBool::new(false),
        };
        let servers = store.query_servers().await?;
        if let Some(replica) = servers.iter().find(|server| server.is_replica()) {
            let text = format!("{} is a replica, and may not write: give the address of its master", replica.name());
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        // Sentinels and clusters are there to fail over, whatever is seen of replicas now.
        let may_fail_over = matches!(store.config.topology, Topology::Sentinels { .. } | Topology::Cluster(_));
        store.guarantees = server_info::guarantees(&servers, may_fail_over);
        for finding in servers.iter().flat_map(|server| server.findings(store.config.wait)) {
            tracing::warn!(target: "leasehold", store = "redis", "{finding}");
        }
        let id = store.read_realm(false).await?;
        store.tokens.adopt(&id);
        Ok(store)
    }

    /// What the current runtime has to do with the servers.
    fn connections(&self) -> Result<Arc<Connections>> {
        self.connections.get()
    }

    async fn query_servers(&self) -> Result<Vec<ServerInfo>> {
        let mut servers = Vec::new();
        for node in self.connections()?.router.all().await? {
            node.connection().await?;
            servers.push(ServerInfo::look(&node).await);
        }
        Ok(servers)
    }

    /// What an operator should know of the servers, now.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out or denied.
    ///
    /// # Cancel safety
    ///
    /// It only looks.
    pub async fn diagnose(&self) -> Result<Vec<Finding>> {
        let servers = self.query_servers().await?;
        Ok(servers.iter().flat_map(|server| server.findings(self.config.wait)).collect())
    }

    /// The realm of the data; begun if there is none, or `anew`.
    async fn read_realm(&self, anew: bool) -> Result<String> {
        let key = self.keys.realm();
        let call = ScriptCall::new(Script::Realm, &[&*key], &[&Holder::fresh().to_string(), flag(anew)]);
        let (answer, connection) = self.connections()?.router.run(self.keys.slot(&key), call).await?;
        let realm = redis::from_redis_value::<String>(answer).ok().filter(|realm| is_realm_id(realm));
        realm.ok_or_else(|| {
            let text = format!("{}: what the key {key:?} holds is no realm of ours", connection.endpoint);
            Error::refused(ErrorKind::Protocol, text)
        })
    }

    /// Runs a step on what stands beside the realm; gives the answer, and who gave it.
    pub(crate) async fn run_on_realm_slot(&self, call: ScriptCall) -> Result<(Answer, String)> {
        let slot = self.keys.slot(&self.keys.realm());
        let connections = self.connections()?;
        let (answer, connection) = connections.router.run(slot, call).await?;
        let acknowledgement = connections.acknowledgement.as_ref();
        self.acknowledge_change(acknowledgement, "what is kept for a quorum", slot, &connection).await?;
        Ok((answer, connection.endpoint.to_string()))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads the realm again after a counter was found to be new; whether it is the one that was believed in.
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

    /// Asks for a lock, with others that are asked for at the same time.
    async fn send_request(
        &self,
        connections: &Connections,
        slot: u16,
        key: &str,
        claim: &Claim,
    ) -> Result<(Answer, Arc<str>, Arc<Connection>)> {
        let permit = match connections.batcher.submit(slot, Op::Request, claim) {
            Dispatch::Alone(permit) => Some(permit),
            Dispatch::Batched(answer) => match Batcher::recv(answer).await? {
                Some(told) => return Ok(told),
                None => None,
            },
        };
        let call = |realm: &str, known: u64, may_be_new: bool| {
            let (mut ttl, mut highest) = (itoa::Buffer::new(), itoa::Buffer::new());
            let (ttl, highest) = (ttl.format(millis(claim.ttl())), highest.format(known));
            let (holder, suffix) = (holder_prefix(claim.holder()), self.info_suffixes.get(claim.info()));
            let (counter, tombstone) = (self.keys.counter(slot, realm), self.keys.tombstone(slot, claim.holder()));
            let arguments = [&*holder, ttl, &suffix, highest, flag(may_be_new)];
            ScriptCall::new(Script::Request, &[key, &counter, &tombstone], &arguments)
        };
        let Some(permit) = permit else { return Box::pin(self.run_with_realm(slot, call, None)).await };
        let (id, known) = self.tokens.snapshot(slot);
        let ran = connections.router.run_with_permit(slot, call(&id, known, false), None).await?;
        // What has to wait for its slot to arrive, or for another realm, shall keep nobody else waiting.
        drop(permit);
        match ran {
            Routed::Done(answer, connection) if status(&answer) != Some("new") => Ok((answer, id, connection)),
            Routed::Done(..) => Box::pin(self.run_with_realm(slot, call, Some(id))).await,
            Routed::SlotSplit => Box::pin(self.run_with_realm(slot, call, None)).await,
        }
    }

    /// Runs a step that takes a token: `step` makes it for a realm, the highest token known, and whether the counter
    /// may be new. It goes on where the counter of the realm `new_in` was found to be new.
    async fn run_with_realm(
        &self,
        slot: u16,
        call: impl Fn(&str, u64, bool) -> ScriptCall,
        mut new_in: Option<Arc<str>>,
    ) -> Result<(Answer, Arc<str>, Arc<Connection>)> {
        for _ in 0..MAX_REALM_CHANGES {
            let may_be_new = match new_in {
                Some(id) => self.is_realm_unchanged(&id).await?,
                None => false,
            };
            let (id, known) = self.tokens.snapshot(slot);
            let call = call(&id, known, may_be_new);
            let (answer, connection) = self.connections()?.router.run(slot, call).await?;
            if status(&answer) != Some("new") {
                return Ok((answer, id, connection));
            }
            new_in = Some(id);
        }
        let text = "the realm of the data changed again and again while a lock was asked for";
        Err(Error::refused(ErrorKind::Unavailable, text))
    }

    /// Connects what renews in the background at the first lease that is so short that its first renewal could come too
    /// late by it.
    fn warm_up(&self, claim: &Claim, slot: u16) {
        if self.is_background_warm.load(Ordering::Relaxed)
            || claim.is_fixed()
            || claim.ttl() >= 10 * self.config.connect_timeout
        {
            return;
        }
        let Ok(background) = background() else { return };
        self.is_background_warm.store(true, Ordering::Relaxed);
        let connections = self.connections.clone();
        // If it fails, the renewal tries again, and says why.
        background.spawn(async move { connections.get()?.warm_up(slot).await });
    }

    fn warn_if_raised(&self, raised: bool, name: &LockName, number: u64) {
        if raised {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                %name,
                token = number,
                "the fencing counter was too low, and was raised above the highest token known here: the server has lost data, and other tokens may be given twice"
            );
        }
    }

    /// What is said of a lock whose token its counter cannot have given, once.
    fn warn_of_token(&self, name: &LockName, token: u64, counter: u64) {
        if !self.has_warned_of_token.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                %name,
                token,
                counter,
                "the lock has a token that its counter cannot have given: another program or a hand wrote it, or the counter was lost; no counter is raised by it"
            );
        }
    }

    /// Waits for the replicas; gives the lease back if too few acknowledge it.
    async fn acknowledge(
        &self,
        acknowledgement: &Acknowledgement,
        claim: &Claim,
        slot: u16,
        granted_on: &Connection,
    ) -> Result<()> {
        let asked = acknowledgement.count(granted_on, self.keys.ack_marker(slot)).await;
        let text = match asked {
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
        // Without a mark: the same holder may be asked for again.
        match self.release_claim(claim, false).await {
            Ok(_) => Err(Error::refused(ErrorKind::Unavailable, format!("{text}; it is given back"))),
            Err(error) => {
                let text = format!("{text}; giving it back failed");
                Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text).with_source(error))
            }
        }
    }

    /// Waits for the replicas to have what was changed: if too few acknowledge it, it may or may not stay.
    async fn acknowledge_change(
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

    /// Gives back what a claim has; where a request of it may still come, with a mark that this meets.
    async fn release_claim(&self, claim: &Claim, may_arrive_late: bool) -> Result<ReleaseOutcome> {
        let (slot, connections) = (self.keys.lock_slot(claim.name()), self.connections()?);
        let what = if may_arrive_late { Op::Withdraw } else { Op::Release };
        let permit = match connections.batcher.submit(slot, what, claim) {
            Dispatch::Alone(permit) => Some(permit),
            Dispatch::Batched(answer) => match Batcher::recv(answer).await? {
                Some((answer, _, connection)) => return released(&answer, &connection),
                None => None,
            },
        };
        let call = self.release_call(slot, claim, may_arrive_late);
        let (answer, connection) = match &permit {
            Some(_) => match connections.router.run_with_permit(slot, call, None).await? {
                Routed::Done(answer, connection) => (answer, connection),
                Routed::SlotSplit => {
                    // What has to wait for its slot to arrive shall keep nobody else waiting.
                    drop(permit);
                    let call = self.release_call(slot, claim, may_arrive_late);
                    Box::pin(connections.router.run(slot, call)).await?
                }
            },
            None => Box::pin(connections.router.run(slot, call)).await?,
        };
        released(&answer, &connection)
    }

    fn release_call(&self, slot: u16, claim: &Claim, may_arrive_late: bool) -> ScriptCall {
        let (key, holder) = (self.keys.lock(claim.name()), holder_prefix(claim.holder()));
        match may_arrive_late {
            true => {
                let (tombstone, kept) = (self.keys.tombstone(slot, claim.holder()), tombstone_ttl_ms(claim));
                ScriptCall::new(Script::Release, &[key, tombstone], &[holder, kept.to_string()])
            }
            false => ScriptCall::new(Script::Release, &[key], &[holder]),
        }
    }

    /// Who holds these locks, of those that are held.
    async fn holders_of(&self, names: &[LockName]) -> Result<Vec<(LockName, HeldBy)>> {
        let realm = self.tokens.realm();
        let mut by_slot: BTreeMap<u16, Vec<&LockName>> = BTreeMap::new();
        for name in names {
            by_slot.entry(self.keys.lock_slot(name)).or_default().push(name);
        }
        let mut found = Vec::with_capacity(names.len());
        for (slot, names) in by_slot {
            for names in names.chunks(MAX_INSPECT_BATCH) {
                found.extend(self.holders_in_slot(slot, names, &realm).await?);
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    async fn holders_in_slot(&self, slot: u16, names: &[&LockName], realm: &Realm) -> Result<Vec<(LockName, HeldBy)>> {
        let keys: Vec<String> = names.iter().map(|name| self.keys.lock(name)).collect();
        let call = ScriptCall::new(Script::Inspect, &keys, &[]);
        let mut found = Vec::with_capacity(names.len());
        let (answer, connection) = match self.connections()?.router.run_splittable(slot, call).await? {
            Routed::Done(answer, connection) => (answer, connection),
            Routed::SlotSplit => {
                for name in names.chunks(1) {
                    found.extend(Box::pin(self.holders_in_slot(slot, name, realm)).await?);
                }
                return Ok(found);
            }
        };
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Inspect.action());
        let Answer::Array(answers) = answer else { return Err(unexpected()) };
        for (at, name) in names.iter().enumerate() {
            match (answers.get(2 * at), answers.get(2 * at + 1)) {
                (Some(Answer::Nil), Some(_)) => {}
                (Some(Answer::BulkString(value)), Some(Answer::Int(remaining))) => {
                    let by = LockValue::parse(value).into_held_by(realm, remaining_from_pttl(*remaining));
                    found.push(((*name).clone(), by));
                }
                _ => return Err(unexpected()),
            }
        }
        Ok(found)
    }

    /// The first `limit` names after `after`, of keys that are there.
    async fn scan_names(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<LockName>> {
        let mut names = BTreeSet::new();
        for node in self.connections()?.router.all().await? {
            let mut cursor = 0_u64;
            loop {
                let (next, keys) = self.scan(&node, cursor, &self.keys.pattern()).await?;
                for key in keys {
                    let Some(name) = self.keys.name(&key).filter(|name| after.is_none_or(|after| name > after)) else {
                        continue;
                    };
                    names.insert(name);
                    if names.len() > limit {
                        names.pop_last();
                    }
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        Ok(names.into_iter().collect())
    }

    async fn scan(&self, node: &Arc<Node>, cursor: u64, pattern: &str) -> Result<(u64, Vec<Vec<u8>>)> {
        const ACTION: &str = "listing locks";
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
        let answer = Router::command(node, ACTION, &scan).await?;
        redis::from_redis_value(answer).map_err(|_| error::unexpected_reply(node.name(), ACTION))
    }

    /// The counters of the old realm go on in the new one.
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

    async fn renew_slot(&self, connections: &Connections, slot: u16, entries: Vec<(&Renewal, &Claim)>) -> Result<()> {
        let keys: Vec<String> = entries.iter().map(|(_, claim)| self.keys.lock(claim.name())).collect();
        let arguments =
            entries.iter().flat_map(|(_, claim)| [holder_prefix(claim.holder()), millis(claim.ttl()).to_string()]);
        let call = ScriptCall::new(Script::Renew, &keys, &arguments.collect::<Vec<_>>());
        let (answer, connection) = match connections.router.run_splittable(slot, call).await? {
            Routed::Done(answer, connection) => (answer, connection),
            // The slot is on its way, and each lock is here or there.
            Routed::SlotSplit => {
                let each = entries.into_iter().map(|entry| Box::pin(self.renew_slot(connections, slot, vec![entry])));
                return futures_util::future::join_all(each).await.into_iter().collect();
            }
        };
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Renew.action());
        let Answer::Array(answers) = answer else { return Err(unexpected()) };
        if answers.len() != entries.len() {
            return Err(unexpected());
        }
        let mut failure = None;
        for ((entry, _), answer) in entries.iter().zip(&answers) {
            match answer {
                Answer::Int(0) => entry.answer(RenewalOutcome::NotHeld),
                Answer::Int(1) => {}
                _ => {
                    let text = format!("{}: renewing: this user may not use that key", connection.endpoint);
                    failure = Some(Error::refused(ErrorKind::Denied, text));
                }
            }
        }
        self.acknowledge_change(connections.acknowledgement.as_ref(), "a renewal", slot, &connection).await?;
        for ((entry, claim), _) in entries.iter().zip(&answers).filter(|(_, answer)| **answer == Answer::Int(1)) {
            entry.answer(RenewalOutcome::HeldFor(claim.ttl()));
        }
        failure.map_or(Ok(()), Err)
    }
}

fn released(answer: &Answer, connection: &Connection) -> Result<ReleaseOutcome> {
    match answer {
        Answer::Int(1) => Ok(ReleaseOutcome::Held),
        Answer::Int(0) => Ok(ReleaseOutcome::NotHeld),
        _ => Err(error::unexpected_reply(&connection.endpoint.to_string(), Script::Release.action())),
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
        let slot = self.keys.lock_slot(claim.name());
        // Before the question, so that whatever is told after it is heard.
        let key = self.keys.lock(claim.name());
        let connections = self.connections()?;
        let seen = connections.router.channel_version(slot, &key);
        let sent = Instant::now();
        let (answer, realm, connection) = self.send_request(&connections, slot, &key, claim).await?;
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Request.action());
        match RequestReply::parse(&answer).ok_or_else(unexpected)? {
            RequestReply::Granted { token, raised } => {
                self.warn_if_raised(raised, claim.name(), token);
                if let Some(acknowledgement) = &connections.acknowledgement {
                    Box::pin(self.acknowledge(acknowledgement, claim, slot, &connection)).await?;
                }
                self.warm_up(claim, slot);
                let token = self.tokens.record(&realm, slot, token);
                Ok(Attempt::Granted(Lease::new(claim.ttl(), Some(token), connection.retention_at(sent))))
            }
            RequestReply::Held { by, remaining, counter } => {
                if !self.tokens.observe(&realm, slot, by.token(), counter) {
                    self.warn_of_token(claim.name(), by.token(), counter);
                }
                let look_again = match remaining {
                    Some(remaining) if by.is_ours() => remaining,
                    Some(remaining) => remaining.min(FOREIGN_POLL_INTERVAL),
                    None => FOREIGN_POLL_INTERVAL,
                };
                let by = by.into_held_by(&self.tokens.realm(), remaining);
                Ok(Attempt::Held(Contention::new(by, look_again).with_version(seen)))
            }
            RequestReply::Withdrawn => {
                let text = format!("\"{}\": this claim was withdrawn before the server came to it", claim.name());
                Err(Error::refused(ErrorKind::Closed, text))
            }
        }
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let key = self.keys.lock(claim.name());
        let node = self.connections()?.router.node(self.keys.slot(&key)).await?;
        let (channel, was_subscribed) = node.subscribe(&key).await?;
        let state = claim.store_state(ClaimState::default);
        *state.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        // A release may have come between the question and the subscription: look again.
        if was_subscribed {
            channel.changed_since(held.version).await;
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        let mut by_slot: BTreeMap<u16, Vec<(&Renewal, &Claim)>> = BTreeMap::new();
        for entry in batch {
            match entry.of() {
                Beat::Lease(claim) => {
                    by_slot.entry(self.keys.lock_slot(claim.name())).or_default().push((entry, claim));
                }
                Beat::Session(_) => {
                    let text = "redis has no sessions that could be renewed";
                    batch.fail(Error::refused(ErrorKind::Protocol, text));
                }
            }
        }
        let connections = match self.connections() {
            Ok(connections) => connections,
            Err(error) => return batch.fail(error),
        };
        let connections = &connections;
        // All at once: a member of a cluster that does not answer must not keep the others'.
        let slots = by_slot.into_iter().map(|(slot, entries)| async move {
            if let Err(error) = self.renew_slot(connections, slot, entries).await {
                batch.fail(error);
            }
        });
        futures_util::future::join_all(slots).await;
    }

    async fn release(&self, claim: &Claim) -> Result<ReleaseOutcome> {
        let in_doubt = claim.is_in_doubt();
        let released = self.release_claim(claim, in_doubt).await?;
        if in_doubt {
            // The mark meets whatever comes late.
            claim.clear_doubt();
        }
        Ok(released)
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let found = self.holders_of(std::slice::from_ref(name)).await?;
        Ok(found.into_iter().next().map(|(_, by)| by))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let mut after = after.cloned();
        loop {
            let names = self.scan_names(after.as_ref(), limit).await?;
            let found = self.holders_of(&names).await?;
            // A page of locks that have all ended meanwhile is not the end of the list.
            if !found.is_empty() || names.is_empty() {
                return Ok(found);
            }
            after = names.into_iter().next_back();
        }
    }

    async fn break_lock(&self, name: &LockName, seen: &HeldBy, how: BreakMode) -> Result<Option<Eviction>> {
        let key = self.keys.lock(name);
        let Some(holder) = seen.holder else {
            let text = format!(
                "\"{name}\" is held by another program, whose lock cannot be broken from here: if nobody needs it, delete the key {key:?}"
            );
            return Err(Error::refused(ErrorKind::Denied, text));
        };
        let slot = self.keys.slot(&key);
        let revoked_by = match how {
            BreakMode::Revoke => holder_prefix(Holder::fresh()),
            BreakMode::Now => String::new(),
        };
        let call = |realm: &str, known: u64, may_be_new: bool| {
            let arguments = [
                &*holder_prefix(holder),
                &revoked_by,
                &known.to_string(),
                flag(may_be_new),
                &MAX_TOKEN_LEAD.to_string(),
            ];
            ScriptCall::new(Script::Break, &[&key, &*self.keys.counter(slot, realm)], &arguments)
        };
        let (answer, realm, connection) = self.run_with_realm(slot, call, None).await?;
        let unexpected = || error::unexpected_reply(&connection.endpoint.to_string(), Script::Break.action());
        match (status(&answer), &answer) {
            (Some("other"), _) => Ok(None),
            (Some("endless"), _) => {
                let text = format!(
                    "\"{name}\" has no expiry, which something else took from it: revoked, it would stay blocked for ever; break it with `--now` (`Break::Now`), and it is free"
                );
                Err(Error::refused(ErrorKind::Denied, text))
            }
            (Some("broken"), Answer::Array(answer)) => {
                let token: u64 = text_at(answer, 1).and_then(|token| token.parse().ok()).ok_or_else(unexpected)?;
                let (Some(Answer::BulkString(bytes)), Some(pttl)) = (answer.get(3), int_at(answer, 4)) else {
                    return Err(unexpected());
                };
                self.warn_if_raised(int_at(answer, 2) == Some(1), name, token);
                let remaining = remaining_from_pttl(pttl);
                let evicted = LockValue::parse(bytes).into_held_by(&realm_from_id(&realm), remaining);
                let free_in = if how == BreakMode::Revoke { remaining.unwrap_or_default() } else { Duration::ZERO };
                Ok(Some(Eviction::new(evicted, Some(self.tokens.record(&realm, slot, token)), free_in)))
            }
            _ => Err(unexpected()),
        }
    }

    async fn new_realm(&self) -> Result<Realm> {
        let old = self.read_realm(false).await?;
        // First the realm: whoever finds the counters gone reads it again.
        let new = self.read_realm(true).await?;
        self.move_counters(&old, &new).await?;
        self.tokens.adopt(&new);
        Ok(self.tokens.realm())
    }
}

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
        let call = |realm: &str, _known: u64, may_be_new: bool| {
            let arguments = [&*holder, &number_text, flag(may_be_new)];
            ScriptCall::new(Script::Raise, &[&key, &*self.keys.counter(slot, realm)], &arguments)
        };
        let (answer, realm, connection) = self.run_with_realm(slot, call, None).await?;
        match status(&answer) {
            Some("refused") => Ok(RaiseOutcome::Refused),
            Some("raised") => {
                let connections = self.connections()?;
                let acknowledgement = connections.acknowledgement.as_ref();
                self.acknowledge_change(acknowledgement, "the raising of a token", slot, &connection).await?;
                self.tokens.record(&realm, slot, number);
                Ok(RaiseOutcome::Raised)
            }
            _ => Err(error::unexpected_reply(&connection.endpoint.to_string(), Script::Raise.action())),
        }
    }

    fn record_store(&self) -> Option<&dyn RecordStore> {
        Some(self)
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("config", &self.config).field("realm", &self.realm()).finish_non_exhaustive()
    }
}
