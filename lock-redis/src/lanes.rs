//! [`Lanes`]: requests and releases of one process that come at the same time, sent together.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Claim, Effect, Error, ErrorKind, Result};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error;
use crate::keys::Keys;
use crate::link::{Connection, Step};
use crate::script::Script;
use crate::servers::{Ran, Servers};
use crate::tokens::Tokens;
use crate::value::{beginning, ending, millis};

/// Requests and releases of one process that come at the same time, sent together: one call for many costs the server
/// and this process far less than many calls.
///
/// Each slot has a lane. While fewer calls than [`UNDER_WAY`] are on a lane, who comes is sent at once, alone; else it
/// waits until one of them is answered, and is sent with all that came meanwhile. If none is answered within two
/// [`LOOKS`], those that wait are sent all the same, up to [`MOST`] calls on a lane.
#[derive(Debug)]
pub(crate) struct Lanes {
    servers: Arc<Servers>,
    tokens: Arc<Tokens>,
    keys: Keys,
    /// By slot; of those that were ever used.
    lanes: Mutex<BTreeMap<u16, Lane>>,
}

#[derive(Debug, Default)]
struct Lane {
    under_way: usize,
    waiting: Vec<Waiter>,
    /// So often were some sent together.
    sent: u64,
    /// There is a [`Watch`] of it.
    watched: bool,
}

#[derive(Debug)]
struct Waiter {
    what: What,
    claim: Claim,
    answer: oneshot::Sender<Result<Option<Told>>>,
    /// Where it waits, and since when.
    runtime: Handle,
    came: Instant,
}

/// What is asked for a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Request,
    /// A release that leaves a mark, as a request of the same holder may still come.
    Withdraw,
    Release,
}

/// An answer, the realm whose token it may give, and on which connection it came.
pub(crate) type Told = (Value, Arc<str>, Arc<Connection>);

/// How one that comes is sent.
pub(crate) enum Way {
    /// By itself, and alone, while this is kept.
    Alone(Turn),
    /// With others. The answer, or nothing if it is to be asked for alone after all.
    Together(oneshot::Receiver<Result<Option<Told>>>),
}

/// The right to one call on a lane. When it is dropped, those that have come meanwhile are sent.
pub(crate) struct Turn {
    /// `None` when it has ended.
    lanes: Option<Arc<Lanes>>,
    slot: u16,
}

/// So many calls are under way on a lane before those that come are gathered: enough that the server and this process
/// work at the same time, and that who comes on a network that takes long waits for a part of a round trip only.
const UNDER_WAY: usize = 2;
/// So many calls are under way on a lane at most, however long the server takes: what comes from one process must not
/// stand before all others there.
const MOST: usize = 8;
/// A caller that does not look at its answer keeps its turn: so often it is seen to whether those that wait are sent.
const LOOKS: Duration = Duration::from_millis(10);
/// So many are sent with one call: the server does nothing else meanwhile.
const TOGETHER: usize = 128;

impl Lanes {
    pub(crate) fn new(servers: Arc<Servers>, tokens: Arc<Tokens>, keys: Keys) -> Arc<Lanes> {
        Arc::new(Lanes { servers, tokens, keys, lanes: Mutex::default() })
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<u16, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what comes by itself, or puts it where it is sent with others.
    pub(crate) fn enter(self: &Arc<Self>, slot: u16, what: What, claim: &Claim) -> Way {
        let mut lanes = self.lanes();
        let lane = lanes.entry(slot).or_default();
        // Without a runtime nobody would send what waits.
        let runtime = (lane.under_way >= UNDER_WAY).then(Handle::try_current);
        let Some(Ok(runtime)) = runtime else {
            lane.under_way += 1;
            return Way::Alone(Turn { lanes: Some(self.clone()), slot });
        };
        let (answer, told) = oneshot::channel();
        lane.waiting.push(Waiter {
            what,
            claim: claim.clone(),
            answer,
            runtime: runtime.clone(),
            came: Instant::now(),
        });
        let is_watched = std::mem::replace(&mut lane.watched, true);
        // What is spawned on a runtime that has ended is dropped here and now.
        drop(lanes);
        if !is_watched {
            runtime.spawn(Watch { lanes: self.clone(), slot }.watch());
        }
        Way::Together(told)
    }

    /// Those that wait on a lane; none ends the turn.
    fn next(&self, slot: u16) -> Option<Vec<Waiter>> {
        let mut lanes = self.lanes();
        let lane = lanes.entry(slot).or_default();
        if lane.waiting.is_empty() {
            lane.under_way -= 1;
            return None;
        }
        lane.sent += 1;
        let left = lane.waiting.split_off(lane.waiting.len().min(TOGETHER));
        Some(std::mem::replace(&mut lane.waiting, left))
    }

    /// The answer to one that is sent with others.
    pub(crate) async fn told(answer: oneshot::Receiver<Result<Option<Told>>>) -> Result<Option<Told>> {
        answer.await.unwrap_or_else(|_| {
            let text = "redis: the runtime that sent this with others has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// Sends those that wait on a lane with one call more. At most [`UNDER_WAY`] of the calls are of callers who may not
    /// look, so that there is always one that goes on.
    fn hurry(self: &Arc<Self>, slot: u16) {
        let mut lanes = self.lanes();
        let can = |lane: &&mut Lane| !lane.waiting.is_empty() && lane.under_way < MOST;
        let Some(lane) = lanes.get_mut(&slot).filter(can) else { return };
        lane.under_way += 1;
        drop(lanes);
        drop(Turn { lanes: Some(self.clone()), slot });
    }

    /// The step for all of these, which are in the order of what they ask for.
    fn step(&self, slot: u16, realm: &str, known: u64, together: &[Waiter]) -> Step {
        const BYTES: usize = 192;
        let of = |what| together.iter().filter(move |waiter| waiter.what == what).map(|waiter| &waiter.claim);
        let (asked, withdrawn) = (of(What::Request).count(), of(What::Withdraw).count());
        let given_back = || of(What::Withdraw).chain(of(What::Release));
        let keys = 1 + asked + together.len() + withdrawn;
        let mut step = Step::of(Script::Several, keys, 3 * together.len() + 3, BYTES * together.len());
        step.add(&self.keys.counter(slot, realm));
        of(What::Request).for_each(|claim| step.add(&self.keys.lock(claim.name())));
        of(What::Request).for_each(|claim| step.add(&self.keys.tombstone(slot, claim.holder())));
        given_back().for_each(|claim| step.add(&self.keys.lock(claim.name())));
        of(What::Withdraw).for_each(|claim| step.add(&self.keys.tombstone(slot, claim.holder())));
        let mut digits = itoa::Buffer::new();
        step.add(digits.format(known));
        step.add(digits.format(asked));
        step.add(digits.format(withdrawn));
        let mut before = None;
        for claim in of(What::Request) {
            step.add(&beginning(claim.holder()));
            step.add(digits.format(millis(claim.ttl())));
            match before.replace(claim.info()) {
                Some(before) if before == claim.info() => step.add("="),
                _ => step.add(&ending(claim.info())),
            }
        }
        given_back().for_each(|claim| step.add(&beginning(claim.holder())));
        of(What::Withdraw).for_each(|claim| step.add(digits.format(of_tombstone(claim))));
        step
    }

    async fn send(&self, slot: u16, mut together: Vec<Waiter>) {
        together.sort_by_key(|waiter| waiter.what);
        let (id, known) = self.tokens.known(slot);
        let came = together.iter().map(|waiter| waiter.came).max();
        let step = self.step(slot, &id, known, &together);
        let doing = step.script.doing();
        let told: Result<Vec<Option<Told>>> = match self.servers.run_in_turn(slot, step, came).await {
            Ok(Ran::Here(Value::Array(told), connection)) if told.len() == together.len() => {
                let told = told.into_iter().map(|answer| match is_alone(&answer) {
                    true => None,
                    false => Some((answer, id.clone(), connection.clone())),
                });
                Ok(told.collect())
            }
            Ok(Ran::Here(_, connection)) => Err(error::odd(&connection.to.to_string(), doing)),
            // Nothing was done. A key may be elsewhere, or one that this user may not use.
            Ok(Ran::Parted) => Ok(together.iter().map(|_| None).collect()),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(together.iter().map(|_| None).collect()),
            Err(error) => Err(error),
        };
        // Who does not listen any more was cut off, and is withdrawn by whoever cut it off.
        match told {
            Ok(told) => together.into_iter().zip(told).for_each(|(one, told)| drop(one.answer.send(Ok(told)))),
            Err(error) => together.into_iter().for_each(|one| drop(one.answer.send(Err(error.clone())))),
        }
    }
}

/// How long the mark of a withdrawn request is kept, in ms: as long as what it withdraws could last, and longer than a
/// connection lives that does not answer.
pub(crate) fn of_tombstone(claim: &Claim) -> u64 {
    const LONGER: Duration = Duration::from_secs(60);
    millis(claim.ttl() + LONGER)
}

/// Sees to it that those that wait on a lane are sent, whoever keeps a turn.
struct Watch {
    lanes: Arc<Lanes>,
    slot: u16,
}

impl Watch {
    async fn watch(self) {
        let mut sent = None;
        loop {
            tokio::time::sleep(LOOKS).await;
            let waits = {
                let lanes = self.lanes.lanes();
                lanes.get(&self.slot).filter(|lane| !lane.waiting.is_empty()).map(|lane| lane.sent)
            };
            if waits.is_none() {
                return;
            }
            if waits == sent {
                self.lanes.hurry(self.slot);
            }
            sent = waits;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.lanes.lanes().entry(self.slot).or_default().watched = false;
        // It may have been dropped in the middle, if what came was of a runtime that has ended.
        self.lanes.hurry(self.slot);
    }
}

fn is_alone(answer: &Value) -> bool {
    matches!(answer, Value::Array(words) if matches!(&words[..], [Value::BulkString(word)] if word == b"alone" || word == b"new"))
}

impl Turn {
    /// It has ended already.
    fn end(mut self) {
        self.lanes = None;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(lanes) = self.lanes.take() else { return };
        let slot = self.slot;
        let Some(first) = lanes.next(slot) else { return };
        let turn = Turn { lanes: Some(lanes.clone()), slot };
        // Whoever dropped this may have no runtime; those that wait have.
        let Some(runtime) = first.first().map(|waiter| waiter.runtime.clone()) else { return };
        runtime.spawn(async move {
            let mut together = Some(first);
            while let Some(next) = together {
                lanes.send(slot, next).await;
                // Who has its answer now, and asks for more, goes along.
                tokio::task::yield_now().await;
                together = lanes.next(slot);
            }
            turn.end();
        });
    }
}
