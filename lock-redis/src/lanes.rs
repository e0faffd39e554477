//! [`Lanes`]: requests and releases of one process that come at the same time, sent together.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::{Effect, Error, ErrorKind, Result};
use redis::Value;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::error;
use crate::keys::Keys;
use crate::link::{Connection, Step};
use crate::script::Script;
use crate::servers::{Ran, Servers};
use crate::tokens::Tokens;

/// Requests and releases of one process that come at the same time, sent together: one call for many costs the server
/// and this process far less than many calls.
///
/// Each slot has a lane. While fewer calls than [`UNDER_WAY`] are on a lane, who comes is sent at once, alone; else it
/// waits until one of them is answered, though not longer than [`LONGEST_WAIT`], and is sent with all that came meanwhile.
#[derive(Debug)]
pub(crate) struct Lanes {
    servers: Arc<Servers>,
    tokens: Arc<Tokens>,
    keys: Keys,
    lanes: Mutex<HashMap<u16, Lane>>,
}

#[derive(Debug, Default)]
struct Lane {
    under_way: usize,
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    ask: Ask,
    answer: oneshot::Sender<Result<Option<Told>>>,
}

/// One request, or one release.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) lock: String,
    pub(crate) holder: String,
    /// What a request has besides.
    pub(crate) request: Option<Request>,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) tombstone: String,
    pub(crate) ttl: u64,
    pub(crate) ending: String,
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

/// So many calls are under way on a lane before those that come are gathered: on a network that takes long, who comes
/// then waits for a part of a round trip only.
const UNDER_WAY: usize = 4;
/// A caller that does not look at its answer keeps its turn; nobody waits longer than this for any turn to end.
const LONGEST_WAIT: Duration = Duration::from_millis(20);
/// So many are sent with one call: the server does nothing else meanwhile.
const TOGETHER: usize = 128;

impl Lanes {
    pub(crate) fn new(servers: Arc<Servers>, tokens: Arc<Tokens>, keys: Keys) -> Arc<Lanes> {
        Arc::new(Lanes { servers, tokens, keys, lanes: Mutex::default() })
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<u16, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what comes by itself, or puts it where it is sent with others.
    pub(crate) fn enter(self: &Arc<Self>, slot: u16, ask: impl FnOnce() -> Ask) -> Way {
        let mut lanes = self.lanes();
        let lane = lanes.entry(slot).or_default();
        if lane.under_way < UNDER_WAY {
            lane.under_way += 1;
            return Way::Alone(Turn { lanes: Some(self.clone()), slot });
        }
        let (answer, told) = oneshot::channel();
        lane.waiting.push(Waiter { ask: ask(), answer });
        Way::Together(told)
    }

    /// Those that wait on a lane; none ends the turn.
    fn next(&self, slot: u16) -> Option<Vec<Waiter>> {
        let mut lanes = self.lanes();
        let Entry::Occupied(mut lane) = lanes.entry(slot) else { return None };
        let waiting = &mut lane.get_mut().waiting;
        if waiting.is_empty() {
            lane.get_mut().under_way -= 1;
            if lane.get().under_way == 0 {
                lane.remove();
            }
            return None;
        }
        let left = waiting.split_off(waiting.len().min(TOGETHER));
        Some(std::mem::replace(waiting, left))
    }

    /// The answer to one that is sent with others.
    pub(crate) async fn told(
        self: &Arc<Self>,
        slot: u16,
        mut answer: oneshot::Receiver<Result<Option<Told>>>,
    ) -> Result<Option<Told>> {
        let in_time = tokio::time::timeout(LONGEST_WAIT, &mut answer).await;
        let told = match in_time {
            Ok(told) => told,
            Err(_) => {
                self.hurry(slot);
                answer.await
            }
        };
        told.unwrap_or_else(|_| {
            let text = "redis: the runtime that sent this with others has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// Sends those that wait on a lane, whatever is under way there.
    fn hurry(self: &Arc<Self>, slot: u16) {
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&slot).filter(|lane| !lane.waiting.is_empty()) else { return };
        lane.under_way += 1;
        drop(lanes);
        drop(Turn { lanes: Some(self.clone()), slot });
    }

    async fn send(&self, slot: u16, together: Vec<Waiter>) {
        let (id, known) = self.tokens.known(slot);
        let mut keys = vec![self.keys.counter(slot, &id)];
        let mut arguments = vec![known.to_string()];
        let mut answers = Vec::with_capacity(together.len());
        for Waiter { ask, answer } in together {
            keys.push(ask.lock);
            arguments.push(ask.holder);
            let (ttl, ending) = match ask.request {
                Some(request) => {
                    keys.push(request.tombstone);
                    (request.ttl.to_string(), request.ending)
                }
                None => (String::new(), String::new()),
            };
            arguments.extend([ttl, ending]);
            answers.push(answer);
        }
        let step = Step::new(Script::Several, keys, arguments);
        let told: Result<Vec<Option<Told>>> = match self.servers.run_many(slot, &step).await {
            Ok(Ran::Here(Value::Array(told), connection)) if told.len() == answers.len() => {
                let told = told.into_iter().map(|answer| match is_alone(&answer) {
                    true => None,
                    false => Some((answer, id.clone(), connection.clone())),
                });
                Ok(told.collect())
            }
            Ok(Ran::Here(_, connection)) => Err(error::odd(&connection.to.to_string(), step.script.doing())),
            // Nothing was done. A key may be elsewhere, or one that this user may not use.
            Ok(Ran::Parted) => Ok(answers.iter().map(|_| None).collect()),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(answers.iter().map(|_| None).collect()),
            Err(error) => Err(error),
        };
        // Who does not listen any more was cut off, and is withdrawn by whoever cut it off.
        match told {
            Ok(told) => answers.into_iter().zip(told).for_each(|(answer, told)| drop(answer.send(Ok(told)))),
            Err(error) => answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone())))),
        }
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
        // Without a runtime there is nobody left who could wait for an answer.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            let mut together = Some(first);
            while let Some(next) = together {
                lanes.send(slot, next).await;
                together = lanes.next(slot);
            }
            turn.end();
        });
    }
}
