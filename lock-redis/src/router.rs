//! [`Router`]: who answers for a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};

use crate::config::{RedisConfig, Topology};
use crate::connector::{Connector, Endpoint};
use crate::error::{self, Redirection};
use crate::keys::SLOT_COUNT;
use crate::node::{CallError, Connection, Node, ScriptCall, StartFlag, run_detached};

/// Who answers for a key: one server, or the member of a cluster that has its slot.
#[derive(Debug)]
pub(crate) enum Router {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// The members of a cluster, and which slots each has, as far as it is known here.
#[derive(Debug)]
pub(crate) struct Cluster {
    connector: Connector,
    seeds: Vec<(String, u16)>,
    response_timeout: Duration,
    state: Mutex<Members>,
    /// Held by the one who asks who has which slot: when it began, and what came of it.
    refreshing: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
}

#[derive(Debug, Default)]
struct Members {
    nodes: HashMap<(String, u16), Arc<Node>>,
    /// The first slot, the last slot, and who has them; in order.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    /// What is known may no longer be true.
    stale: bool,
}

/// What became of a step.
pub(crate) enum Routed {
    /// It was run, on this connection.
    Done(Value, Arc<Connection>),
    /// It was not run: the slot is on its way, and of its keys some are here and some there.
    SlotSplit,
}

/// So often is a step sent on to another member before there is a pause.
const MAX_REDIRECTIONS: usize = 5;
/// The first pause before a cluster is asked again that could not do a step; each is twice as long as that before it.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(4);
/// No pause is longer.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(128);

impl Router {
    pub(crate) fn new(config: &RedisConfig, connector: &Connector) -> Router {
        match &config.topology {
            Topology::Cluster(seeds) => Router::Cluster(Arc::new(Cluster {
                connector: connector.clone(),
                seeds: seeds.clone(),
                response_timeout: config.response_timeout,
                state: Mutex::default(),
                refreshing: tokio::sync::Mutex::default(),
            })),
            _ => Router::One(Arc::new(Node::new(connector.clone(), config.response_timeout))),
        }
    }

    /// Whoever has a slot, as far as it is known here.
    pub(crate) async fn node(&self, slot: u16) -> Result<Arc<Node>> {
        match self {
            Router::One(node) => Ok(node.clone()),
            Router::Cluster(cluster) => cluster.node(slot).await,
        }
    }

    /// All that have slots.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Node>>> {
        match self {
            Router::One(node) => Ok(vec![node.clone()]),
            Router::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// The mark of a channel; 0 if it is not heard.
    pub(crate) fn channel_version(&self, slot: u16, channel: &str) -> u64 {
        match self {
            Router::One(node) => node.channel_version(channel),
            Router::Cluster(cluster) => cluster.state().owner(slot).map_or(0, |node| node.channel_version(channel)),
        }
    }

    /// Runs a step whose keys are all in this slot; says on which connection. A cluster that cannot do it now, since
    /// the slot is on its way to another member or has none, is asked again within the time for one step.
    ///
    /// It waits for a place: the steps that are under way at a server are bounded in number.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or a protocol error.
    pub(crate) async fn run(&self, slot: u16, call: ScriptCall) -> Result<(Value, Arc<Connection>)> {
        match self.dispatch(slot, call, false).await? {
            Routed::Done(answer, connection) => Ok((answer, connection)),
            Routed::SlotSplit => Err(Error::refused(ErrorKind::Unavailable, "the keys of a lock are in two places")),
        }
    }

    /// As [`run`](Router::run), for a step of several keys of which each could be asked for alone: it is not asked
    /// again while its keys are parted.
    ///
    /// # Errors
    ///
    /// As for [`run`](Router::run).
    pub(crate) async fn run_splittable(&self, slot: u16, call: ScriptCall) -> Result<Routed> {
        let may_split = call.keys > 1;
        self.dispatch(slot, call, may_split).await
    }

    /// As [`run_splittable`](Router::run_splittable), for who has a turn on the lane of this slot, which bounds what is under way
    /// at one server; at a member of a cluster, which has many slots, it waits for a place all the same. Who waited for
    /// its turn says when it came.
    ///
    /// # Errors
    ///
    /// As for [`run`](Router::run).
    pub(crate) async fn run_with_permit(
        &self,
        slot: u16,
        call: ScriptCall,
        submitted_at: Option<Instant>,
    ) -> Result<Routed> {
        match self {
            Router::One(node) => single_outcome(node, &call, node.run(&call, submitted_at).await),
            Router::Cluster(_) => Box::pin(self.run_splittable(slot, call)).await,
        }
    }

    async fn dispatch(&self, slot: u16, call: ScriptCall, may_split: bool) -> Result<Routed> {
        let (action, flag) = (call.script.action(), StartFlag::default());
        match self {
            Router::One(node) => {
                let (node, task_flag) = (node.clone(), flag.clone());
                let work =
                    async move { single_outcome(&node, &call, node.run_bounded(&call, false, &task_flag).await) };
                run_detached(action, flag, work).await
            }
            Router::Cluster(cluster) => {
                let (cluster, task_flag) = (cluster.clone(), flag.clone());
                run_detached(action, flag, async move { cluster.run(slot, &call, may_split, &task_flag).await }).await
            }
        }
    }

    /// Sends a command that is no step.
    pub(crate) async fn command(node: &Arc<Node>, action: &'static str, command: &Cmd) -> Result<Value> {
        node.command(action, command).await.map_err(|failure| node.error(action, failure))
    }
}

/// What a step brought where there is one server.
fn single_outcome(
    node: &Node,
    call: &ScriptCall,
    answer: Result<(Value, Arc<Connection>), CallError>,
) -> Result<Routed> {
    match answer {
        Ok((answer, connection)) => Ok(Routed::Done(answer, connection)),
        Err(CallError::Redis(error)) if error::is_cluster_reply(&error) => {
            Err(Error::refused(ErrorKind::InvalidConfig, needs_cluster_url(node.name(), node.connector().endpoint())))
        }
        Err(failure) => Err(node.error(call.script.action(), failure)),
    }
}

/// That a server is to be given as one of a cluster.
pub(crate) fn needs_cluster_url(name: &str, to: &Endpoint) -> String {
    let host = match to {
        Endpoint::Address(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        Endpoint::Address(host, port) => format!("{host}:{port}"),
        _ => "HOST:PORT".to_owned(),
    };
    format!("{name} is a member of a cluster: give it as redis-cluster://{host}")
}

impl Members {
    fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let at = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., node)| node.clone())
    }
}

impl Cluster {
    fn state(&self) -> MutexGuard<'_, Members> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member at this address. A member that does not know its own host leaves it empty: it is that of whom it told.
    fn node_at(&self, host: &str, port: u16, source: &Node) -> Arc<Node> {
        let host = match (host, source.connector().endpoint()) {
            ("" | "?", crate::connector::Endpoint::Address(host, _)) => host,
            _ => host,
        };
        let node = || Arc::new(Node::new(self.connector.for_address(host, port), self.response_timeout));
        self.state().nodes.entry((host.to_owned(), port)).or_insert_with(node).clone()
    }

    async fn node(self: &Arc<Self>, slot: u16) -> Result<Arc<Node>> {
        let known = {
            let state = self.state();
            state.owner(slot).filter(|_| !state.stale)
        };
        if let Some(node) = known {
            return Ok(node);
        }
        self.refresh().await?;
        self.state().owner(slot).ok_or_else(|| {
            Error::refused(ErrorKind::Unavailable, format!("the cluster has nobody for slot {slot} of {SLOT_COUNT}"))
        })
    }

    /// Runs a step. What cannot be done now was not done, and is asked for again until the time for one step is over.
    async fn run(self: &Arc<Self>, slot: u16, call: &ScriptCall, may_split: bool, flag: &StartFlag) -> Result<Routed> {
        let started = Instant::now();
        let mut pause = MIN_RETRY_PAUSE;
        loop {
            let (node, failure) = match self.follow(slot, call, flag).await? {
                Ok((answer, connection)) => return Ok(Routed::Done(answer, connection)),
                Err(failure) => failure,
            };
            self.state().stale = true;
            match &failure {
                CallError::Redis(error) if may_split && error::is_tryagain(error) => return Ok(Routed::SlotSplit),
                CallError::Redis(error)
                    if error::is_cluster_retry(error) && started.elapsed() + pause < self.response_timeout => {}
                _ => return Err(node.error(call.script.action(), failure)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    /// Sends a step to whom has the slot, and to whom it is sent on. A member that sends it on has done nothing.
    async fn follow(
        self: &Arc<Self>,
        slot: u16,
        call: &ScriptCall,
        flag: &StartFlag,
    ) -> Result<Result<(Value, Arc<Connection>), (Arc<Node>, CallError)>> {
        let (mut node, mut asking) = (self.node(slot).await?, false);
        let mut redirections = 0;
        loop {
            let failure = match node.run_bounded(call, asking, flag).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(failure) => failure,
            };
            let redirection = failure.redirection().filter(|_| redirections < MAX_REDIRECTIONS);
            (node, asking) = match redirection {
                Some(Redirection::Moved(host, port)) => {
                    self.state().stale = true;
                    (self.node_at(&host, port, &node), false)
                }
                Some(Redirection::Ask(host, port)) => (self.node_at(&host, port, &node), true),
                None => return Ok(Err((node, failure))),
            };
            redirections += 1;
        }
    }

    async fn masters(self: &Arc<Self>) -> Result<Vec<Arc<Node>>> {
        self.refresh().await?;
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for (.., node) in &self.state().ranges {
            if !masters.iter().any(|known| Arc::ptr_eq(known, node)) {
                masters.push(node.clone());
            }
        }
        Ok(masters)
    }

    /// Learns who has which slot. Who comes before it is asked for shares what comes of it.
    async fn refresh(self: &Arc<Self>) -> Result<()> {
        let (cluster, called) = (self.clone(), Instant::now());
        run_detached("asking who has which slot", StartFlag::already_set(), async move {
            let mut last = cluster.refreshing.lock().await;
            if let Some((_, outcome)) = last.as_ref().filter(|(started, _)| *started > called) {
                return outcome.clone();
            }
            let started = Instant::now();
            let outcome = cluster.poll_members().await.map(|(map, source)| cluster.install(map, &source));
            *last = Some((started, outcome.clone()));
            outcome
        })
        .await
    }

    /// All members that are known: those that have slots, and those that were given.
    fn known_nodes(&self) -> Vec<Arc<Node>> {
        let mut state = self.state();
        for (host, port) in &self.seeds {
            let node = || Arc::new(Node::new(self.connector.for_address(host, *port), self.response_timeout));
            state.nodes.entry((host.clone(), *port)).or_insert_with(node);
        }
        state.nodes.values().cloned().collect()
    }

    /// Asks all members that are known who has which slot, at once, and gives the best answer and who gave it. As soon as
    /// more than half of them know of all slots, the others are not waited for; nor longer than half of the time for
    /// connecting if one does, as some may be gone.
    async fn poll_members(&self) -> Result<(SlotMap, Arc<Node>)> {
        let known = self.known_nodes();
        let (count, straggler_timeout) = (known.len(), tokio::time::sleep(self.connector.timeout() / 2));
        let mut queries = tokio::task::JoinSet::new();
        for node in known {
            queries.spawn(async move { query_slot_map(&node).await.map(|map| (map, node)) });
        }
        let mut failure = Error::refused(ErrorKind::Unavailable, "no member of the cluster answers");
        let mut best: Option<(SlotMap, Arc<Node>)> = None;
        let mut complete = 0;
        tokio::pin!(straggler_timeout);
        while complete <= count / 2 {
            let answer = tokio::select! {
                answer = queries.join_next() => answer,
                () = &mut straggler_timeout, if complete > 0 => None,
            };
            match answer {
                Some(Ok(Ok((map, node)))) => {
                    complete += usize::from(map.slot_count() == SLOT_COUNT);
                    if best.as_ref().is_none_or(|(best, _)| map.is_newer_than(best)) {
                        best = Some((map, node));
                    }
                }
                Some(Ok(Err(error))) => failure = error,
                Some(Err(_)) => {}
                None => break,
            }
        }
        best.ok_or(failure)
    }

    /// From now on this is who has which slot, as `teller` told. Who has none, and was not given, is forgotten.
    fn install(&self, map: SlotMap, source: &Node) {
        let mut ranges: Vec<_> = map
            .ranges
            .into_iter()
            .map(|(first, end, host, port)| (first, end, self.node_at(&host, port, source)))
            .collect();
        ranges.sort_by_key(|(first, ..)| *first);
        let mut state = self.state();
        let seeds = &self.seeds;
        state.nodes.retain(|address, node| {
            seeds.contains(address) || ranges.iter().any(|(.., owner)| Arc::ptr_eq(owner, node))
        });
        state.ranges = ranges;
        state.stale = false;
    }
}

/// Who has which slot, as one member knows it.
#[derive(Debug)]
struct SlotMap {
    /// The first slot, the last slot, and the host and port of the master.
    ranges: Vec<(u16, u16, String, u16)>,
    /// The greatest epoch of the cluster's configuration that this member has seen; 0 if this user may not ask.
    epoch: u64,
}

impl SlotMap {
    /// How many slots have somebody.
    fn slot_count(&self) -> u16 {
        self.ranges.iter().map(|(first, last, ..)| last.saturating_sub(*first) + 1).fold(0, u16::saturating_add)
    }

    /// A member that is none any more knows of fewer slots, or is behind.
    fn is_newer_than(&self, other: &SlotMap) -> bool {
        (self.slot_count(), self.epoch) > (other.slot_count(), other.epoch)
    }
}

async fn query_slot_map(node: &Arc<Node>) -> Result<SlotMap> {
    const ACTION: &str = "asking who has which slot";
    let mut queries = redis::pipe();
    queries.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let answers = node.commands(ACTION, &queries).await.map_err(|failure| node.error(ACTION, failure))?;
    let mut answers = answers.into_iter();
    let slots =
        answers.next().unwrap_or(Value::Nil).extract_error().map_err(|failure| {
            match error::is_cluster_disabled(&failure) {
                true => {
                    let text = format!("{} is no member of a cluster: give it as redis://", node.name());
                    Error::refused(ErrorKind::InvalidConfig, text)
                }
                false => node.error(ACTION, CallError::Redis(failure)),
            }
        })?;
    let ranges = ranges(slots).ok_or_else(|| error::unexpected_reply(node.name(), ACTION))?;
    Ok(SlotMap { ranges, epoch: answers.next().and_then(epoch).unwrap_or(0) })
}

/// The epoch, of what `CLUSTER INFO` says.
fn epoch(reply: Value) -> Option<u64> {
    let info: String = redis::from_redis_value(reply).ok()?;
    info.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"))?.trim().parse().ok()
}

/// The first slot, the last slot, and the host and port of the master.
fn ranges(reply: Value) -> Option<Vec<(u16, u16, String, u16)>> {
    let Value::Array(rows) = reply else { return None };
    let row = |row: Value| {
        let Value::Array(row) = row else { return None };
        let [first, last, Value::Array(master), ..] = &row[..] else { return None };
        let number = |value: &Value| match value {
            Value::Int(number) => u16::try_from(*number).ok(),
            _ => None,
        };
        let host = match master.first()? {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        Some((number(first)?, number(last)?, host, number(master.get(1)?)?))
    };
    rows.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ends: &[(u16, u16)], epoch: u64) -> SlotMap {
        SlotMap { ranges: ends.iter().map(|(first, last)| (*first, *last, "h".to_owned(), 1)).collect(), epoch }
    }

    #[test]
    fn who_knows_of_more_slots_is_believed_and_of_those_who_is_not_behind() {
        let whole = map(&[(0, 5_000), (5_001, SLOT_COUNT - 1)], 7);
        assert_eq!(whole.slot_count(), SLOT_COUNT);
        for worse in [map(&[], 9), map(&[(0, SLOT_COUNT - 2)], 9), map(&[(0, SLOT_COUNT - 1)], 6)] {
            assert!(whole.is_newer_than(&worse) && !worse.is_newer_than(&whole), "{worse:?}");
        }
    }
}
