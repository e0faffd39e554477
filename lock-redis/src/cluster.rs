//! [`Cluster`]: the nodes of a cluster, and redirections between them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lock_core::kit::locked;
use lock_core::{Error, ErrorKind, Result};
use redis::Value;

use crate::connection::Connection;
use crate::connector::Connector;
use crate::detached::{StartFlag, run_detached};
use crate::endpoint::Endpoint;
use crate::error::{self, CallError, Redirection};
use crate::keys::SLOT_COUNT;
use crate::node::Node;
use crate::routed::Routed;
use crate::script_call::ScriptCall;
use crate::slot_map::SlotMap;

/// The nodes of a cluster, and the slots that each owns as far as it is known here.
#[derive(Debug)]
pub(crate) struct Cluster {
    connector: Connector,
    seeds: Vec<(String, u16)>,
    response_timeout: Duration,
    state: Mutex<Members>,
    /// Held while the slot map is read. Holds when the last read began, and its outcome.
    refreshing: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
}

#[derive(Debug, Default)]
struct Members {
    nodes: HashMap<(String, u16), Arc<Node>>,
    /// First slot, last slot and owner, in the order of slots.
    ranges: Vec<(u16, u16, Arc<Node>)>,
    /// The ranges may be out of date.
    stale: bool,
}

/// Redirections of one call that are followed before there is a pause.
const MAX_REDIRECTIONS: usize = 5;
/// First pause before a call is retried; each later pause is twice as long.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(4);
/// Longest pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_millis(128);

impl Members {
    /// The owner of a slot.
    fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        let at = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., node)| node.clone())
    }
}

impl Cluster {
    pub(crate) fn new(connector: Connector, seeds: Vec<(String, u16)>, response_timeout: Duration) -> Cluster {
        Cluster {
            connector,
            seeds,
            response_timeout,
            state: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, Members> {
        locked(&self.state)
    }

    /// The node at an address that `source` gave. A node that does not know its own host leaves it
    /// empty: the host is then that of `source`.
    fn node_at(&self, host: &str, port: u16, source: &Node) -> Arc<Node> {
        let host = match (host, source.connector().endpoint()) {
            ("" | "?", Endpoint::Address(host, _)) => host,
            _ => host,
        };
        let node = || Arc::new(Node::new(self.connector.for_address(host, port), self.response_timeout));
        self.state().nodes.entry((host.to_owned(), port)).or_insert_with(node).clone()
    }

    /// The owner of a slot, as far as it is known; asks nothing.
    pub(crate) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.state().owner(slot)
    }

    /// The owner of a slot; asks the cluster if what is known may be stale.
    pub(crate) async fn node(self: &Arc<Self>, slot: u16) -> Result<Arc<Node>> {
        let known = {
            let state = self.state();
            state.owner(slot).filter(|_| !state.stale)
        };
        if let Some(node) = known {
            return Ok(node);
        }
        self.refresh().await?;
        self.owner(slot).ok_or_else(|| {
            Error::refused(ErrorKind::Unavailable, format!("the cluster has nobody for slot {slot} of {SLOT_COUNT}"))
        })
    }

    /// Runs a call. One that a cluster cannot run now has not run, and is retried until the
    /// response time-out is over.
    pub(crate) async fn run(
        self: &Arc<Self>,
        slot: u16,
        call: &ScriptCall,
        may_split: bool,
        started: &StartFlag,
    ) -> Result<Routed> {
        let submitted_at = Instant::now();
        let mut pause = MIN_RETRY_PAUSE;
        loop {
            let (node, failure) = match self.follow(slot, call, started).await? {
                Ok((answer, connection)) => return Ok(Routed::Done(answer, connection)),
                Err(failure) => failure,
            };
            self.state().stale = true;
            match &failure {
                CallError::Redis(error) if may_split && error::is_tryagain(error) => return Ok(Routed::SlotSplit),
                CallError::Redis(error)
                    if error::is_cluster_retry(error) && submitted_at.elapsed() + pause < self.response_timeout => {}
                _ => return Err(node.error(call.script.action(), failure)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(MAX_RETRY_PAUSE);
        }
    }

    /// Sends a call to the owner of the slot, and follows redirections. A node that redirects has
    /// done nothing.
    async fn follow(
        self: &Arc<Self>,
        slot: u16,
        call: &ScriptCall,
        started: &StartFlag,
    ) -> Result<Result<(Value, Arc<Connection>), (Arc<Node>, CallError)>> {
        let (mut node, mut asking) = (self.node(slot).await?, false);
        let mut redirections = 0;
        loop {
            let failure = match node.run_bounded(call, asking, started).await {
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

    /// All nodes that own slots.
    pub(crate) async fn masters(self: &Arc<Self>) -> Result<Vec<Arc<Node>>> {
        self.refresh().await?;
        let mut masters: Vec<Arc<Node>> = Vec::new();
        for (.., node) in &self.state().ranges {
            if !masters.iter().any(|known| Arc::ptr_eq(known, node)) {
                masters.push(node.clone());
            }
        }
        Ok(masters)
    }

    /// Reads the slot map. Callers that arrive before a poll begins share its outcome.
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

    /// The nodes that own slots, and the seeds.
    fn known_nodes(&self) -> Vec<Arc<Node>> {
        let mut state = self.state();
        for (host, port) in &self.seeds {
            let node = || Arc::new(Node::new(self.connector.for_address(host, *port), self.response_timeout));
            state.nodes.entry((host.clone(), *port)).or_insert_with(node);
        }
        state.nodes.values().cloned().collect()
    }

    /// Asks all known nodes at once for their slot map, and returns the best map and its source.
    /// Polling stops when more than half of the nodes have given a complete map; with at least one
    /// it stops after half of the connect time-out, since some nodes may be gone.
    async fn poll_members(&self) -> Result<(SlotMap, Arc<Node>)> {
        let known = self.known_nodes();
        let (count, straggler_timeout) = (known.len(), tokio::time::sleep(self.connector.timeout() / 2));
        let mut queries = tokio::task::JoinSet::new();
        for node in known {
            queries.spawn(async move { SlotMap::query(&node).await.map(|map| (map, node)) });
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
                    complete += usize::from(map.is_complete());
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

    /// Replaces the slot map by the one that `source` gave. Nodes that own no slot and are no seeds
    /// are forgotten.
    fn install(&self, map: SlotMap, source: &Node) {
        let mut ranges: Vec<_> = map
            .ranges
            .into_iter()
            .map(|(first, last, host, port)| (first, last, self.node_at(&host, port, source)))
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
