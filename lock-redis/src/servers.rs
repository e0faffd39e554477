//! [`Servers`]: who answers for a key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Error, ErrorKind, Result};
use redis::{Cmd, Value};

use crate::config::{Place, RedisConfig};
use crate::dial::{Dial, To};
use crate::error::{self, Redirection};
use crate::keys::SLOTS;
use crate::link::{Begun, Connection, Failed, Link, Step, owned};

/// Who answers for a key: one server, or the member of a cluster that has its slot.
#[derive(Debug)]
pub(crate) enum Servers {
    One(Arc<Link>),
    Cluster(Arc<Cluster>),
}

/// The members of a cluster, and which slots each has, as far as it is known here.
#[derive(Debug)]
pub(crate) struct Cluster {
    dial: Dial,
    seeds: Vec<(String, u16)>,
    response_timeout: Duration,
    state: Mutex<Members>,
    /// Held by the one who asks who has which slot: when it began, and what came of it.
    learning: tokio::sync::Mutex<Option<(Instant, Result<()>)>>,
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
    pub(crate) fn new(config: &RedisConfig, dial: &Dial) -> Servers {
        match &config.place {
            Place::Cluster(seeds) => Servers::Cluster(Arc::new(Cluster {
                dial: dial.clone(),
                seeds: seeds.clone(),
                response_timeout: config.response_timeout,
                state: Mutex::default(),
                learning: tokio::sync::Mutex::default(),
            })),
            _ => Servers::One(Arc::new(Link::new(dial.clone(), config.response_timeout))),
        }
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
    /// It waits for a place: the steps that are under way at a server are bounded in number.
    ///
    /// # Errors
    ///
    /// Unavailable, timed out, denied or a protocol error.
    pub(crate) async fn run(&self, slot: u16, step: Step) -> Result<(Value, Arc<Connection>)> {
        match self.run_apart(slot, step, false).await? {
            Ran::Here(answer, connection) => Ok((answer, connection)),
            Ran::Parted => Err(Error::refused(ErrorKind::Unavailable, "the keys of a lock are in two places")),
        }
    }

    /// As [`run`](Servers::run), for a step of several keys of which each could be asked for alone: it is not asked
    /// again while its keys are parted.
    ///
    /// # Errors
    ///
    /// As for [`run`](Servers::run).
    pub(crate) async fn run_many(&self, slot: u16, step: Step) -> Result<Ran> {
        let may_part = step.keys > 1;
        self.run_apart(slot, step, may_part).await
    }

    /// As [`run_many`](Servers::run_many), for who has a turn on the lane of this slot, which bounds what is under way
    /// at one server; at a member of a cluster, which has many slots, it waits for a place all the same. Who waited for
    /// its turn says when it came.
    ///
    /// # Errors
    ///
    /// As for [`run`](Servers::run).
    pub(crate) async fn run_in_turn(&self, slot: u16, step: Step, came: Option<Instant>) -> Result<Ran> {
        match self {
            Servers::One(link) => here(link, &step, link.run(&step, came).await),
            Servers::Cluster(_) => Box::pin(self.run_many(slot, step)).await,
        }
    }

    async fn run_apart(&self, slot: u16, step: Step, may_part: bool) -> Result<Ran> {
        let (doing, begun) = (step.script.doing(), Begun::default());
        match self {
            Servers::One(link) => {
                let (link, begins) = (link.clone(), begun.clone());
                let work = async move { here(&link, &step, link.run_in_place(&step, false, &begins).await) };
                owned(doing, begun, work).await
            }
            Servers::Cluster(cluster) => {
                let (cluster, begins) = (cluster.clone(), begun.clone());
                owned(doing, begun, async move { cluster.run(slot, &step, may_part, &begins).await }).await
            }
        }
    }

    /// Sends a command that is no step.
    pub(crate) async fn command(link: &Arc<Link>, doing: &'static str, command: &Cmd) -> Result<Value> {
        link.command(doing, command).await.map_err(|failed| link.error(doing, failed))
    }
}

/// What a step brought where there is one server.
fn here(link: &Link, step: &Step, answer: Result<(Value, Arc<Connection>), Failed>) -> Result<Ran> {
    match answer {
        Ok((answer, connection)) => Ok(Ran::Here(answer, connection)),
        Err(Failed::Redis(error)) if error::is_of_cluster(&error) => {
            Err(Error::refused(ErrorKind::InvalidConfig, is_a_member(link.name(), link.dial().to())))
        }
        Err(failed) => Err(link.error(step.script.doing(), failed)),
    }
}

/// That a server is to be given as one of a cluster.
pub(crate) fn is_a_member(name: &str, to: &To) -> String {
    let host = match to {
        To::Address(host, port) if host.contains(':') => format!("[{host}]:{port}"),
        To::Address(host, port) => format!("{host}:{port}"),
        _ => "HOST:PORT".to_owned(),
    };
    format!("{name} is a member of a cluster: give it as redis-cluster://{host}")
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

    async fn link(self: &Arc<Self>, slot: u16) -> Result<Arc<Link>> {
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
    async fn run(self: &Arc<Self>, slot: u16, step: &Step, may_part: bool, begun: &Begun) -> Result<Ran> {
        let started = Instant::now();
        let mut pause = FIRST_PAUSE;
        loop {
            let (link, failed) = match self.follow(slot, step, begun).await? {
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
    async fn follow(
        self: &Arc<Self>,
        slot: u16,
        step: &Step,
        begun: &Begun,
    ) -> Result<Result<(Value, Arc<Connection>), (Arc<Link>, Failed)>> {
        let (mut link, mut asking) = (self.link(slot).await?, false);
        let mut sent_on = 0;
        loop {
            let failed = match link.run_in_place(step, asking, begun).await {
                Ok(answer) => return Ok(Ok(answer)),
                Err(failed) => failed,
            };
            let redirection = failed.redirection().filter(|_| sent_on < REDIRECTIONS);
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

    async fn masters(self: &Arc<Self>) -> Result<Vec<Arc<Link>>> {
        self.learn().await?;
        let mut masters: Vec<Arc<Link>> = Vec::new();
        for (.., link) in &self.state().ranges {
            if !masters.iter().any(|known| Arc::ptr_eq(known, link)) {
                masters.push(link.clone());
            }
        }
        Ok(masters)
    }

    /// Learns who has which slot. Who comes before it is asked for shares what comes of it.
    async fn learn(self: &Arc<Self>) -> Result<()> {
        let (cluster, came) = (self.clone(), Instant::now());
        owned("asking who has which slot", Begun::already(), async move {
            let mut last = cluster.learning.lock().await;
            if let Some((_, told)) = last.as_ref().filter(|(begun, _)| *begun > came) {
                return told.clone();
            }
            let begun = Instant::now();
            let told = cluster.ask_members().await.map(|(map, teller)| cluster.believe(map, &teller));
            *last = Some((begun, told.clone()));
            told
        })
        .await
    }

    /// All members that are known: those that have slots, and those that were given.
    fn known(&self) -> Vec<Arc<Link>> {
        let mut state = self.state();
        for (host, port) in &self.seeds {
            let link = || Arc::new(Link::new(self.dial.at(host, *port), self.response_timeout));
            state.links.entry((host.clone(), *port)).or_insert_with(link);
        }
        state.links.values().cloned().collect()
    }

    /// Asks all members that are known who has which slot, at once, and gives the best answer and who gave it. As soon as
    /// more than half of them know of all slots, the others are not waited for; nor longer than half of the time for
    /// connecting if one does, as some may be gone.
    async fn ask_members(&self) -> Result<(SlotMap, Arc<Link>)> {
        let known = self.known();
        let (count, patience) = (known.len(), tokio::time::sleep(self.dial.limit() / 2));
        let mut asked = tokio::task::JoinSet::new();
        for link in known {
            asked.spawn(async move { ask_member(&link).await.map(|map| (map, link)) });
        }
        let mut failure = Error::refused(ErrorKind::Unavailable, "no member of the cluster answers");
        let mut best: Option<(SlotMap, Arc<Link>)> = None;
        let mut whole = 0;
        tokio::pin!(patience);
        while whole <= count / 2 {
            let told = tokio::select! {
                told = asked.join_next() => told,
                () = &mut patience, if whole > 0 => None,
            };
            match told {
                Some(Ok(Ok((map, link)))) => {
                    whole += usize::from(map.slots() == SLOTS);
                    if best.as_ref().is_none_or(|(best, _)| map.is_better_than(best)) {
                        best = Some((map, link));
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
    fn believe(&self, map: SlotMap, teller: &Link) {
        let mut ranges: Vec<_> = map
            .ranges
            .into_iter()
            .map(|(first, end, host, port)| (first, end, self.member(&host, port, teller)))
            .collect();
        ranges.sort_by_key(|(first, ..)| *first);
        let mut state = self.state();
        let seeds = &self.seeds;
        state.links.retain(|address, link| {
            seeds.contains(address) || ranges.iter().any(|(.., owner)| Arc::ptr_eq(owner, link))
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
    fn slots(&self) -> u16 {
        self.ranges.iter().map(|(first, last, ..)| last.saturating_sub(*first) + 1).fold(0, u16::saturating_add)
    }

    /// A member that is none any more knows of fewer slots, or is behind.
    fn is_better_than(&self, other: &SlotMap) -> bool {
        (self.slots(), self.epoch) > (other.slots(), other.epoch)
    }
}

async fn ask_member(link: &Arc<Link>) -> Result<SlotMap> {
    const DOING: &str = "asking who has which slot";
    let mut questions = redis::pipe();
    questions.cmd("CLUSTER").arg("SLOTS").cmd("CLUSTER").arg("INFO");
    let answers = link.commands(DOING, &questions).await.map_err(|failed| link.error(DOING, failed))?;
    let mut answers = answers.into_iter();
    let slots =
        answers.next().unwrap_or(Value::Nil).extract_error().map_err(|failed| match error::is_no_cluster(&failed) {
            true => {
                let text = format!("{} is no member of a cluster: give it as redis://", link.name());
                Error::refused(ErrorKind::InvalidConfig, text)
            }
            false => link.error(DOING, Failed::Redis(failed)),
        })?;
    let ranges = ranges(slots).ok_or_else(|| error::odd(link.name(), DOING))?;
    Ok(SlotMap { ranges, epoch: answers.next().and_then(epoch).unwrap_or(0) })
}

/// The epoch, of what `CLUSTER INFO` says.
fn epoch(told: Value) -> Option<u64> {
    let told: String = redis::from_redis_value(told).ok()?;
    told.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:"))?.trim().parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ends: &[(u16, u16)], epoch: u64) -> SlotMap {
        SlotMap { ranges: ends.iter().map(|(first, last)| (*first, *last, "h".to_owned(), 1)).collect(), epoch }
    }

    #[test]
    fn who_knows_of_more_slots_is_believed_and_of_those_who_is_not_behind() {
        let whole = map(&[(0, 5_000), (5_001, SLOTS - 1)], 7);
        assert_eq!(whole.slots(), SLOTS);
        for worse in [map(&[], 9), map(&[(0, SLOTS - 2)], 9), map(&[(0, SLOTS - 1)], 6)] {
            assert!(whole.is_better_than(&worse) && !worse.is_better_than(&whole), "{worse:?}");
        }
    }
}
