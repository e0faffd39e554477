//! [`Servers`]: who answers for a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};

use crate::config::{Place, RedisConfig};
use crate::dial::Dial;
use crate::error::{self, Redirection};
use crate::keys::SLOTS;
use crate::link::{Connection, Failed, Link, Step};

/// Who answers for a key: one server, or the member of a cluster that has its slot.
#[derive(Debug)]
pub(crate) enum Servers {
    One(Arc<Link>),
    Cluster(Box<Cluster>),
}

/// The members of a cluster, and which slots each has, as far as it is known here.
#[derive(Debug)]
pub(crate) struct Cluster {
    dial: Dial,
    seeds: Vec<(String, u16)>,
    response_timeout: Duration,
    state: Mutex<Members>,
}

#[derive(Debug, Default)]
struct Members {
    links: HashMap<(String, u16), Arc<Link>>,
    /// The first slot, the last slot, and who has them; in order.
    ranges: Vec<(u16, u16, Arc<Link>)>,
    /// What is known may no longer be true.
    stale: bool,
}

/// What became of a step.
pub(crate) enum Ran {
    /// It was run, on this connection.
    Here(Value, Arc<Connection>),
    /// It was not run: the slot is on its way, and of its keys some are here and some there.
    Parted,
}

/// So often is a step sent on to another member before there is a pause.
const REDIRECTIONS: usize = 5;
/// The first pause before a cluster is asked again that could not do a step; each is twice as long as that before it.
const FIRST_PAUSE: Duration = Duration::from_millis(4);
/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_millis(128);

impl Servers {
    pub(crate) fn new(config: &RedisConfig) -> Result<Servers> {
        let dial = Dial::new(config)?;
        Ok(match &config.place {
            Place::Cluster(seeds) => Servers::Cluster(Box::new(Cluster {
                dial,
                seeds: seeds.clone(),
                response_timeout: config.response_timeout,
                state: Mutex::default(),
            })),
            _ => Servers::One(Arc::new(Link::new(dial, config.response_timeout))),
        })
    }

    /// Whoever has a slot, as far as it is known here.
    pub(crate) async fn link(&self, slot: u16) -> Result<Arc<Link>> {
        match self {
            Servers::One(link) => Ok(link.clone()),
            Servers::Cluster(cluster) => cluster.link(slot).await,
        }
    }

    /// All that have slots.
    pub(crate) async fn all(&self) -> Result<Vec<Arc<Link>>> {
        match self {
            Servers::One(link) => Ok(vec![link.clone()]),
            Servers::Cluster(cluster) => cluster.masters().await,
        }
    }

    /// The mark of a channel; 0 if it is not heard.
    pub(crate) fn mark(&self, slot: u16, channel: &str) -> u64 {
        match self {
            Servers::One(link) => link.mark(channel),
            Servers::Cluster(cluster) => cluster.state().owner(slot).map_or(0, |link| link.mark(channel)),
        }
    }

    /// Runs a step whose keys are all in this slot; says on which connection. A cluster that cannot do it now, since
    /// the slot is on its way to another member or has none, is asked again within the time for one step.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or a protocol error.
    pub(crate) async fn run(&self, slot: u16, step: &Step) -> Result<(Value, Arc<Connection>)> {
        match self {
            Servers::One(link) => link.run(step, false).await.map_err(|failed| link.error(step.script.doing(), failed)),
            Servers::Cluster(cluster) => match Box::pin(cluster.run(slot, step, false)).await? {
                Ran::Here(answer, connection) => Ok((answer, connection)),
                Ran::Parted => Err(Error::refused(ErrorKind::Unavailable, "the keys of a lock are in two places")),
            },
        }
    }

    /// As [`run`](Servers::run), for a step of several keys of which each could be asked for alone: it is not asked
    /// again while its keys are parted.
    ///
    /// # Errors
    ///
    /// As for [`run`](Servers::run).
    pub(crate) async fn run_many(&self, slot: u16, step: &Step) -> Result<Ran> {
        match self {
            Servers::One(link) => match link.run(step, false).await {
                Ok((answer, connection)) => Ok(Ran::Here(answer, connection)),
                Err(failed) => Err(link.error(step.script.doing(), failed)),
            },
            Servers::Cluster(cluster) => Box::pin(cluster.run(slot, step, step.keys > 1)).await,
        }
    }

    /// Sends a command that is no step.
    pub(crate) async fn command(link: &Link, doing: &'static str, command: &Cmd) -> Result<Value> {
        link.command(doing, command).await.map_err(|failed| link.error(doing, failed))
    }
}

impl Members {
    fn owner(&self, slot: u16) -> Option<Arc<Link>> {
        let at = self.ranges.partition_point(|(_, last, _)| *last < slot);
        self.ranges.get(at).filter(|(first, ..)| *first <= slot).map(|(.., link)| link.clone())
    }
}

impl Cluster {
    fn state(&self) -> MutexGuard<'_, Members> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member at this address. A member that does not know its own host leaves it empty: it is that of whom it told.
    fn member(&self, host: &str, port: u16, teller: &Link) -> Arc<Link> {
        let host = match (host, teller.dial().to()) {
            ("" | "?", crate::dial::To::Address(host, _)) => host,
            _ => host,
        };
        let link = || Arc::new(Link::new(self.dial.at(host, port), self.response_timeout));
        self.state().links.entry((host.to_owned(), port)).or_insert_with(link).clone()
    }

    async fn link(&self, slot: u16) -> Result<Arc<Link>> {
        let known = {
            let state = self.state();
            state.owner(slot).filter(|_| !state.stale)
        };
        if let Some(link) = known {
            return Ok(link);
        }
        self.learn().await?;
        self.state().owner(slot).ok_or_else(|| {
            Error::refused(ErrorKind::Unavailable, format!("the cluster has nobody for slot {slot} of {SLOTS}"))
        })
    }

    /// Runs a step. What cannot be done now was not done, and is asked for again until the time for one step is over.
    async fn run(&self, slot: u16, step: &Step, may_part: bool) -> Result<Ran> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (link, failed) = match self.follow(slot, step).await? {
                Ok((answer, connection)) => return Ok(Ran::Here(answer, connection)),
                Err(failed) => failed,
            };
            self.state().stale = true;
            match &failed {
                Failed::Redis(error) if may_part && error::is_parted(error) => return Ok(Ran::Parted),
                Failed::Redis(error)
                    if error::is_not_now(error) && started.elapsed() + pause < self.response_timeout => {}
                _ => return Err(link.error(step.script.doing(), failed)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends a step to whom has the slot, and to whom it is sent on. A member that sends it on has done nothing.
    async fn follow(&self, slot: u16, step: &Step) -> Result<Result<(Value, Arc<Connection>), (Arc<Link>, Failed)>> {
        let (mut link, mut asking) = (self.link(slot).await?, false);
        let mut sent_on = 0;
        loop {
            let failed = match link.run(step, asking).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(failed) => failed,
            };
            let redirection = match &failed {
                Failed::Redis(error) if sent_on < REDIRECTIONS => error::redirection(error),
                _ => None,
            };
            (link, asking) = match redirection {
                Some(Redirection::Moved(host, port)) => {
                    self.state().stale = true;
                    (self.member(&host, port, &link), false)
                }
                Some(Redirection::Ask(host, port)) => (self.member(&host, port, &link), true),
                None => return Ok(Err((link, failed))),
            };
            sent_on += 1;
        }
    }

    async fn masters(&self) -> Result<Vec<Arc<Link>>> {
        self.learn().await?;
        let mut masters: Vec<Arc<Link>> = Vec::new();
        for (.., link) in &self.state().ranges {
            if !masters.iter().any(|known| Arc::ptr_eq(known, link)) {
                masters.push(link.clone());
            }
        }
        Ok(masters)
    }

    /// Asks all members that are known who has which slot, at once, and believes the first that answers.
    async fn learn(&self) -> Result<()> {
        let mut known: Vec<Arc<Link>> = self.state().links.values().cloned().collect();
        for (host, port) in &self.seeds {
            let address = (host.clone(), *port);
            let link = || Arc::new(Link::new(self.dial.at(host, *port), self.response_timeout));
            let seed = self.state().links.entry(address).or_insert_with(link).clone();
            if !known.iter().any(|link| Arc::ptr_eq(link, &seed)) {
                known.push(seed);
            }
        }
        let mut asked = tokio::task::JoinSet::new();
        for link in known {
            asked.spawn(async move {
                const DOING: &str = "asking who has which slot";
                let mut ask = redis::cmd("CLUSTER");
                let told = Servers::command(&link, DOING, ask.arg("SLOTS")).await?;
                let ranges = ranges(told).ok_or_else(|| error::odd(link.name(), DOING))?;
                Ok((link, ranges))
            });
        }
        let mut last = Error::refused(ErrorKind::Unavailable, "no member of the cluster answers");
        while let Some(told) = asked.join_next().await {
            match told {
                Ok(Ok((teller, told))) => {
                    let ranges = told
                        .into_iter()
                        .map(|(first, end, host, port)| (first, end, self.member(&host, port, &teller)));
                    let mut ranges: Vec<_> = ranges.collect();
                    ranges.sort_by_key(|(first, ..)| *first);
                    let mut state = self.state();
                    state.ranges = ranges;
                    state.stale = false;
                    return Ok(());
                }
                Ok(Err(error)) => last = error,
                Err(_) => {}
            }
        }
        Err(last)
    }
}

/// The first slot, the last slot, and the host and port of the master.
fn ranges(told: Value) -> Option<Vec<(u16, u16, String, u16)>> {
    let Value::Array(rows) = told else { return None };
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
