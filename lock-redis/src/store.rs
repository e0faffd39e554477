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
use crate::config::Place;
use crate::connections::Connections;
use crate::dial::Dial;
use crate::keys::Keys;
use crate::lanes::{Lanes, Way, What, of_tombstone};
use crate::link::{Connection, Link, Step};
use crate::requested::{Requested, number, remaining_of, text, word};
use crate::script::Script;
use crate::server::{self, Server};
use crate::servers::{Ran, Servers};
use crate::tokens::{STEP, Tokens, is_realm, realm_of};
use crate::value::{LastEnding, Value, beginning, flag, millis};
use crate::wakeups::Channel;
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
    ending: LastEnding,
    /// It was said that a lock has a token which its counter cannot have given.
    warned: AtomicBool,
    /// What renews in the background connects, or is connected.
    warm: AtomicBool,
}

/// So many keys are looked at with one call.
const LOOKED_AT: usize = 256;
/// When to look again at a lock of another program, which tells nobody of its release.
const LOOK_AT_OTHERS: Duration = Duration::from_millis(200);
/// The greatest number that a counter can have, after which there is no other.
const GREATEST: u64 = i64::MAX as u64;
/// So often is a step asked again after the realm was found to be another.
const REALMS: usize = 4;

/// What the store keeps with a claim: that its channel is heard as long as it waits.
#[derive(Default)]
struct Notes(Mutex<Option<Arc<Channel>>>);

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
        let keys = Keys::new(&config.prefix, matches!(config.place, Place::Cluster(_)))?;
        let (dial, tokens) = (Dial::new(&config)?, Arc::new(Tokens::default()));
        let connections = {
            let (config, keys, tokens) = (config.clone(), keys.clone(), tokens.clone());
            Arc::new(PerRuntime::new(move || Connections::new(&config, &dial, &keys, &tokens)))
        };
        let mut store = RedisStore {
            config,
            keys,
            tokens,
            connections,
            guarantees: Guarantees::NONE,
            ending: LastEnding::default(),
            warned: AtomicBool::new(false),
            warm: AtomicBool::new(false),
        };
        let looked_at = store.look().await?;
        if let Some(replica) = looked_at.iter().find(|server| server.is_replica()) {
            let text = format!("{} is a replica, and may not write: give the address of its master", replica.name());
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        // Sentinels and clusters are there to fail over, whatever is seen of replicas now.
        let may_fail_over = matches!(store.config.place, Place::Sentinels { .. } | Place::Cluster(_));
        store.guarantees = server::guarantees(&looked_at, may_fail_over);
        for finding in looked_at.iter().flat_map(|server| server.findings(store.config.wait)) {
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

    async fn look(&self) -> Result<Vec<Server>> {
        let mut looked_at = Vec::new();
        for link in self.connections()?.servers.all().await? {
            link.connection().await?;
            looked_at.push(Server::look(&link).await);
        }
        Ok(looked_at)
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
        let looked_at = self.look().await?;
        Ok(looked_at.iter().flat_map(|server| server.findings(self.config.wait)).collect())
    }

    /// The realm of the data; begun if there is none, or `anew`.
    async fn read_realm(&self, anew: bool) -> Result<String> {
        let key = self.keys.realm();
        let step = Step::new(Script::Realm, &[&*key], &[&Holder::fresh().to_string(), flag(anew)]);
        let (answer, connection) = self.connections()?.servers.run(self.keys.slot(&key), step).await?;
        let realm = redis::from_redis_value::<String>(answer).ok().filter(|realm| is_realm(realm));
        realm.ok_or_else(|| {
            let text = format!("{}: what the key {key:?} holds is no realm of ours", connection.to);
            Error::refused(ErrorKind::Protocol, text)
        })
    }

    /// Runs a step on what stands beside the realm; gives the answer, and who gave it.
    pub(crate) async fn run_beside_realm(&self, step: Step) -> Result<(Answer, String)> {
        let slot = self.keys.slot(&self.keys.realm());
        let connections = self.connections()?;
        let (answer, connection) = connections.servers.run(slot, step).await?;
        let acknowledgement = connections.acknowledgement.as_ref();
        self.acknowledge_change(acknowledgement, "what is kept for a quorum", slot, &connection).await?;
        Ok((answer, connection.to.to_string()))
    }

    pub(crate) fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Reads the realm again after a counter was found to be new; whether it is the one that was believed in.
    async fn realm_is_still(&self, id: &str) -> Result<bool> {
        let now = self.read_realm(false).await?;
        if self.tokens.adopt(&now) {
            tracing::warn!(
                target: "leasehold",
                store = "redis",
                before = %realm_of(id),
                now = %realm_of(&now),
                "the data is of another realm now: it was lost, or a new realm was begun; tokens before and after do not compare"
            );
        }
        Ok(now == id)
    }

    /// Asks for a lock, with others that are asked for at the same time.
    async fn ask(
        &self,
        connections: &Connections,
        slot: u16,
        key: &str,
        claim: &Claim,
    ) -> Result<(Answer, Arc<str>, Arc<Connection>)> {
        let turn = match connections.lanes.enter(slot, What::Request, claim) {
            Way::Alone(turn) => Some(turn),
            Way::Together(answer) => match Lanes::told(answer).await? {
                Some(told) => return Ok(told),
                None => None,
            },
        };
        let step = |realm: &str, known: u64, may_be_new: bool| {
            let (mut ttl, mut highest) = (itoa::Buffer::new(), itoa::Buffer::new());
            let (ttl, highest) = (ttl.format(millis(claim.ttl())), highest.format(known));
            let (holder, ending) = (beginning(claim.holder()), self.ending.of(claim.info()));
            let (counter, tombstone) = (self.keys.counter(slot, realm), self.keys.tombstone(slot, claim.holder()));
            let arguments = [&*holder, ttl, &ending, highest, flag(may_be_new)];
            Step::new(Script::Request, &[key, &counter, &tombstone], &arguments)
        };
        let Some(turn) = turn else { return Box::pin(self.with_token(slot, step, None)).await };
        let (id, known) = self.tokens.known(slot);
        let ran = connections.servers.run_in_turn(slot, step(&id, known, false), None).await?;
        // What has to wait for its slot to arrive, or for another realm, shall keep nobody else waiting.
        drop(turn);
        match ran {
            Ran::Here(answer, connection) if word(&answer) != Some("new") => Ok((answer, id, connection)),
            Ran::Here(..) => Box::pin(self.with_token(slot, step, Some(id))).await,
            Ran::Parted => Box::pin(self.with_token(slot, step, None)).await,
        }
    }

    /// Runs a step that takes a token: `step` makes it for a realm, the highest token known, and whether the counter
    /// may be new. It goes on where the counter of the realm `new_in` was found to be new.
    async fn with_token(
        &self,
        slot: u16,
        step: impl Fn(&str, u64, bool) -> Step,
        mut new_in: Option<Arc<str>>,
    ) -> Result<(Answer, Arc<str>, Arc<Connection>)> {
        for _ in 0..REALMS {
            let may_be_new = match new_in {
                Some(id) => self.realm_is_still(&id).await?,
                None => false,
            };
            let (id, known) = self.tokens.known(slot);
            let step = step(&id, known, may_be_new);
            let (answer, connection) = self.connections()?.servers.run(slot, step).await?;
            if word(&answer) != Some("new") {
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
        if self.warm.load(Ordering::Relaxed) || claim.is_fixed() || claim.ttl() >= 10 * self.config.connect_timeout {
            return;
        }
        let Ok(background) = background() else { return };
        self.warm.store(true, Ordering::Relaxed);
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
        if !self.warned.swap(true, Ordering::Relaxed) {
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
        let asked = acknowledgement.ask(granted_on, self.keys.acknowledged(slot)).await;
        let text = match asked {
            Ok(replicas) if replicas >= acknowledgement.wanted() => return Ok(()),
            Ok(replicas) => format!(
                "\"{}\" was granted, and {replicas} of {} replicas acknowledged it within {:?}",
                claim.name(),
                acknowledgement.wanted(),
                acknowledgement.limit()
            ),
            Err(error) => {
                format!("\"{}\" was granted, and its replicas could not be asked: {error}", claim.name())
            }
        };
        // Without a mark: the same holder may be asked for again.
        match self.give_back(claim, false).await {
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
        let replicas = acknowledgement.ask(connection, self.keys.acknowledged(slot)).await?;
        if replicas >= acknowledgement.wanted() {
            return Ok(());
        }
        let text = format!(
            "{}: {replicas} of {} replicas acknowledged {what} within {:?}",
            connection.to,
            acknowledgement.wanted(),
            acknowledgement.limit()
        );
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    }

    /// Gives back what a claim has; where a request of it may still come, with a mark that this meets.
    async fn give_back(&self, claim: &Claim, may_come_again: bool) -> Result<ReleaseOutcome> {
        let (slot, connections) = (self.keys.slot_of(claim.name()), self.connections()?);
        let what = if may_come_again { What::Withdraw } else { What::Release };
        let turn = match connections.lanes.enter(slot, what, claim) {
            Way::Alone(turn) => Some(turn),
            Way::Together(answer) => match Lanes::told(answer).await? {
                Some((answer, _, connection)) => return released(&answer, &connection),
                None => None,
            },
        };
        let step = self.release_of(slot, claim, may_come_again);
        let (answer, connection) = match &turn {
            Some(_) => match connections.servers.run_in_turn(slot, step, None).await? {
                Ran::Here(answer, connection) => (answer, connection),
                Ran::Parted => {
                    // What has to wait for its slot to arrive shall keep nobody else waiting.
                    drop(turn);
                    let step = self.release_of(slot, claim, may_come_again);
                    Box::pin(connections.servers.run(slot, step)).await?
                }
            },
            None => Box::pin(connections.servers.run(slot, step)).await?,
        };
        released(&answer, &connection)
    }

    fn release_of(&self, slot: u16, claim: &Claim, may_come_again: bool) -> Step {
        let (key, holder) = (self.keys.lock(claim.name()), beginning(claim.holder()));
        match may_come_again {
            true => {
                let (tombstone, kept) = (self.keys.tombstone(slot, claim.holder()), of_tombstone(claim));
                Step::new(Script::Release, &[key, tombstone], &[holder, kept.to_string()])
            }
            false => Step::new(Script::Release, &[key], &[holder]),
        }
    }

    /// Who holds these locks, of those that are held.
    async fn look_at(&self, names: &[LockName]) -> Result<Vec<(LockName, HeldBy)>> {
        let realm = self.tokens.realm();
        let mut by_slot: BTreeMap<u16, Vec<&LockName>> = BTreeMap::new();
        for name in names {
            by_slot.entry(self.keys.slot_of(name)).or_default().push(name);
        }
        let mut found = Vec::with_capacity(names.len());
        for (slot, names) in by_slot {
            for names in names.chunks(LOOKED_AT) {
                found.extend(self.look_in(slot, names, &realm).await?);
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    async fn look_in(&self, slot: u16, names: &[&LockName], realm: &Realm) -> Result<Vec<(LockName, HeldBy)>> {
        let keys: Vec<String> = names.iter().map(|name| self.keys.lock(name)).collect();
        let step = Step::new(Script::Look, &keys, &[]);
        let mut found = Vec::with_capacity(names.len());
        let (answer, connection) = match self.connections()?.servers.run_many(slot, step).await? {
            Ran::Here(answer, connection) => (answer, connection),
            Ran::Parted => {
                for name in names.chunks(1) {
                    found.extend(Box::pin(self.look_in(slot, name, realm)).await?);
                }
                return Ok(found);
            }
        };
        let odd = || error::odd(&connection.to.to_string(), Script::Look.doing());
        let Answer::Array(answers) = answer else { return Err(odd()) };
        for (at, name) in names.iter().enumerate() {
            match (answers.get(2 * at), answers.get(2 * at + 1)) {
                (Some(Answer::Nil), Some(_)) => {}
                (Some(Answer::BulkString(value)), Some(Answer::Int(remaining))) => {
                    let by = Value::read(value).shown(realm, remaining_of(*remaining));
                    found.push(((*name).clone(), by));
                }
                _ => return Err(odd()),
            }
        }
        Ok(found)
    }

    /// The first `limit` names after `after`, of keys that are there.
    async fn names(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<LockName>> {
        let mut names = BTreeSet::new();
        for link in self.connections()?.servers.all().await? {
            let mut cursor = 0_u64;
            loop {
                let (next, keys) = self.scan(&link, cursor, &self.keys.pattern()).await?;
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

    async fn scan(&self, link: &Arc<Link>, cursor: u64, pattern: &str) -> Result<(u64, Vec<Vec<u8>>)> {
        const DOING: &str = "listing locks";
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(1_000);
        let answer = Servers::command(link, DOING, &scan).await?;
        redis::from_redis_value(answer).map_err(|_| error::odd(link.name(), DOING))
    }

    /// The counters of the old realm go on in the new one.
    async fn carry_on(&self, old: &str, new: &str) -> Result<()> {
        let (pattern, ending) = self.keys.counters(old);
        let connections = self.connections()?;
        for link in connections.servers.all().await? {
            let mut cursor = 0;
            loop {
                let (next, keys) = self.scan(&link, cursor, &pattern).await?;
                for counter in keys.into_iter().filter_map(|key| String::from_utf8(key).ok()) {
                    let Some(start) = counter.strip_suffix(&ending) else { continue };
                    let renamed = format!("{start}token:{new}");
                    let slot = self.keys.slot(&counter);
                    connections.servers.run(slot, Step::new(Script::CarryOn, &[counter, renamed], &[])).await?;
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
            entries.iter().flat_map(|(_, claim)| [beginning(claim.holder()), millis(claim.ttl()).to_string()]);
        let step = Step::new(Script::Renew, &keys, &arguments.collect::<Vec<_>>());
        let (answer, connection) = match connections.servers.run_many(slot, step).await? {
            Ran::Here(answer, connection) => (answer, connection),
            // The slot is on its way, and each lock is here or there.
            Ran::Parted => {
                let each = entries.into_iter().map(|entry| Box::pin(self.renew_slot(connections, slot, vec![entry])));
                return futures_util::future::join_all(each).await.into_iter().collect();
            }
        };
        let odd = || error::odd(&connection.to.to_string(), Script::Renew.doing());
        let Answer::Array(answers) = answer else { return Err(odd()) };
        if answers.len() != entries.len() {
            return Err(odd());
        }
        let mut failure = None;
        for ((entry, _), answer) in entries.iter().zip(&answers) {
            match answer {
                Answer::Int(0) => entry.answer(RenewalOutcome::NotHeld),
                Answer::Int(1) => {}
                _ => {
                    let text = format!("{}: renewing: this user may not use that key", connection.to);
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
        _ => Err(error::odd(&connection.to.to_string(), Script::Release.doing())),
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
        let slot = self.keys.slot_of(claim.name());
        // Before the question, so that whatever is told after it is heard.
        let key = self.keys.lock(claim.name());
        let connections = self.connections()?;
        let seen = connections.servers.mark(slot, &key);
        let sent = Instant::now();
        let (answer, realm, connection) = self.ask(&connections, slot, &key, claim).await?;
        let odd = || error::odd(&connection.to.to_string(), Script::Request.doing());
        match Requested::read(&answer).ok_or_else(odd)? {
            Requested::Granted { token, raised } => {
                self.warn_if_raised(raised, claim.name(), token);
                if let Some(acknowledgement) = &connections.acknowledgement {
                    Box::pin(self.acknowledge(acknowledgement, claim, slot, &connection)).await?;
                }
                self.warm_up(claim, slot);
                let token = self.tokens.given(&realm, slot, token);
                Ok(Attempt::Granted(Lease::new(claim.ttl(), Some(token), connection.remembers(sent))))
            }
            Requested::Held { by, remaining, counter } => {
                if !self.tokens.seen(&realm, slot, by.token(), counter) {
                    self.warn_of_token(claim.name(), by.token(), counter);
                }
                let look_again = match remaining {
                    Some(remaining) if by.is_ours() => remaining,
                    Some(remaining) => remaining.min(LOOK_AT_OTHERS),
                    None => LOOK_AT_OTHERS,
                };
                let by = by.shown(&self.tokens.realm(), remaining);
                Ok(Attempt::Held(Contention::new(by, look_again).with_version(seen)))
            }
            Requested::Withdrawn => {
                let text = format!("\"{}\": this claim was withdrawn before the server came to it", claim.name());
                Err(Error::refused(ErrorKind::Closed, text))
            }
        }
    }

    async fn wait(&self, claim: &Claim, held: &Contention) -> Result<()> {
        let key = self.keys.lock(claim.name());
        let link = self.connections()?.servers.link(self.keys.slot(&key)).await?;
        let (channel, was_heard) = link.subscribe(&key).await?;
        let notes = claim.store_state(Notes::default);
        *notes.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel.clone());
        // A release may have come between the question and the subscription: look again.
        if was_heard {
            channel.until_not(held.version).await;
        }
        Ok(())
    }

    async fn renew(&self, batch: &RenewalBatch) {
        let mut by_slot: BTreeMap<u16, Vec<(&Renewal, &Claim)>> = BTreeMap::new();
        for entry in batch {
            match entry.of() {
                Beat::Lease(claim) => {
                    by_slot.entry(self.keys.slot_of(claim.name())).or_default().push((entry, claim));
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
        let unclear = claim.is_in_doubt();
        let released = self.give_back(claim, unclear).await?;
        if unclear {
            // The mark meets whatever comes late.
            claim.clear_doubt();
        }
        Ok(released)
    }

    fn token_raiser(&self) -> Option<&dyn TokenRaiser> {
        Some(self)
    }

    async fn inspect(&self, name: &LockName) -> Result<Option<HeldBy>> {
        let found = self.look_at(std::slice::from_ref(name)).await?;
        Ok(found.into_iter().next().map(|(_, by)| by))
    }

    async fn list(&self, after: Option<&LockName>, limit: usize) -> Result<Vec<(LockName, HeldBy)>> {
        let mut after = after.cloned();
        loop {
            let names = self.names(after.as_ref(), limit).await?;
            let found = self.look_at(&names).await?;
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
        let nobody = match how {
            BreakMode::Revoke => beginning(Holder::fresh()),
            BreakMode::Now => String::new(),
        };
        let step = |realm: &str, known: u64, may_be_new: bool| {
            let arguments = [&*beginning(holder), &nobody, &known.to_string(), flag(may_be_new), &STEP.to_string()];
            Step::new(Script::Break, &[&key, &*self.keys.counter(slot, realm)], &arguments)
        };
        let (answer, realm, connection) = self.with_token(slot, step, None).await?;
        let odd = || error::odd(&connection.to.to_string(), Script::Break.doing());
        match (word(&answer), &answer) {
            (Some("other"), _) => Ok(None),
            (Some("endless"), _) => {
                let text = format!(
                    "\"{name}\" has no expiry, which something else took from it: revoked, it would stay blocked for ever; break it with `--now` (`Break::Now`), and it is free"
                );
                Err(Error::refused(ErrorKind::Denied, text))
            }
            (Some("broken"), Answer::Array(answer)) => {
                let token: u64 = text(answer, 1).and_then(|token| token.parse().ok()).ok_or_else(odd)?;
                let (Some(Answer::BulkString(bytes)), Some(pttl)) = (answer.get(3), number(answer, 4)) else {
                    return Err(odd());
                };
                self.warn_if_raised(number(answer, 2) == Some(1), name, token);
                let remaining = remaining_of(pttl);
                let evicted = Value::read(bytes).shown(&realm_of(&realm), remaining);
                let free_in = if how == BreakMode::Revoke { remaining.unwrap_or_default() } else { Duration::ZERO };
                Ok(Some(Eviction::new(evicted, Some(self.tokens.given(&realm, slot, token)), free_in)))
            }
            _ => Err(odd()),
        }
    }

    async fn new_realm(&self) -> Result<Realm> {
        let old = self.read_realm(false).await?;
        // First the realm: whoever finds the counters gone reads it again.
        let new = self.read_realm(true).await?;
        self.carry_on(&old, &new).await?;
        self.tokens.adopt(&new);
        Ok(self.tokens.realm())
    }
}

#[async_trait]
impl TokenRaiser for RedisStore {
    async fn raise(&self, claim: &Claim, number: u64) -> Result<RaiseOutcome> {
        if number >= GREATEST {
            let text = format!("the token {number} has none after it in Redis");
            return Err(Error::refused(ErrorKind::Protocol, text));
        }
        let key = self.keys.lock(claim.name());
        let slot = self.keys.slot(&key);
        let (holder, number_text) = (beginning(claim.holder()), number.to_string());
        let step = |realm: &str, _known: u64, may_be_new: bool| {
            let arguments = [&*holder, &number_text, flag(may_be_new)];
            Step::new(Script::Raise, &[&key, &*self.keys.counter(slot, realm)], &arguments)
        };
        let (answer, realm, connection) = self.with_token(slot, step, None).await?;
        match word(&answer) {
            Some("refused") => Ok(RaiseOutcome::Refused),
            Some("raised") => {
                let connections = self.connections()?;
                let acknowledgement = connections.acknowledgement.as_ref();
                self.acknowledge_change(acknowledgement, "the raising of a token", slot, &connection).await?;
                self.tokens.given(&realm, slot, number);
                Ok(RaiseOutcome::Raised)
            }
            _ => Err(error::odd(&connection.to.to_string(), Script::Raise.doing())),
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
