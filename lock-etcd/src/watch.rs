//! [`Watches`]: one long-lived watch for each name that somebody of this process waits for.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::Notify;

use crate::members::Members;

/// One long-lived watch for each name that somebody of this process waits for.
///
/// A watch that starts at a revision which was already reached is served by etcd on a tick of 100 ms, which would cap
/// hand-overs at ten a second for each waiter. So a watch starts from now, stays for all waiters, and a waiter looks
/// once more unless the watch has covered everything since its own reading.
pub(crate) struct Watches {
    members: Arc<Members>,
    names: Arc<Mutex<Names>>,
}

type Names = HashMap<Vec<u8>, Arc<Watch>>;

/// A watch of the keys of one name.
struct Watch {
    state: Mutex<State>,
}

struct State {
    phase: Phase,
    /// The latest deletions, with their revisions.
    deleted: VecDeque<(i64, Vec<u8>)>,
    /// Of what happened after this revision nothing is missing in `deleted`, once the watch is live.
    complete_from: i64,
    waiters: HashMap<Vec<u8>, Vec<Arc<Notify>>>,
    /// Whether somebody came to wait since the last look.
    used: bool,
}

enum Phase {
    Opening,
    Live,
    /// Nobody needed it any more.
    Idle,
    Broken(Error),
}

/// A waiter for the end of one key, until it is dropped.
struct Ticket {
    watch: Arc<Watch>,
    key: Vec<u8>,
    created: i64,
    called: Arc<Notify>,
}

/// How many deletions are remembered for those who come between a reading and their waiting.
const REMEMBERED: usize = 256;

/// How long a watch stays that nobody needs.
const LINGER: Duration = Duration::from_secs(10);

impl Watches {
    pub(crate) fn new(members: Arc<Members>) -> Watches {
        Watches { members, names: Arc::default() }
    }

    /// Completes when `key` with this create revision, which stood at revision `seen`, may have gone.
    pub(crate) async fn gone(&self, range: &[u8], key: &[u8], created: i64, seen: i64) -> Result<()> {
        loop {
            let ticket = Ticket::of(self.watch(range), key, created);
            match ticket.gone(&self.members, seen).await {
                Some(result) => return result,
                // It had just been given up for lack of waiters.
                None => continue,
            }
        }
    }

    /// The watch for the keys in this range; it is opened if there is none.
    fn watch(&self, range: &[u8]) -> Arc<Watch> {
        let mut names = locked(&self.names);
        if let Some(watch) = names.get(range).filter(|watch| !watch.is_over()) {
            return watch.clone();
        }
        let watch = Arc::new(Watch {
            state: Mutex::new(State {
                phase: Phase::Opening,
                deleted: VecDeque::new(),
                complete_from: i64::MAX,
                waiters: HashMap::new(),
                used: true,
            }),
        });
        names.insert(range.to_vec(), watch.clone());
        let keeper = Keeper {
            members: self.members.clone(),
            names: self.names.clone(),
            range: range.to_vec(),
            watch: watch.clone(),
        };
        tokio::spawn(keeper.run());
        watch
    }
}

impl Ticket {
    fn of(watch: Arc<Watch>, key: &[u8], created: i64) -> Ticket {
        let called = Arc::new(Notify::new());
        let mut state = locked(&watch.state);
        state.used = true;
        state.waiters.entry(key.to_vec()).or_default().push(called.clone());
        drop(state);
        Ticket { watch, key: key.to_vec(), created, called }
    }

    /// `None` if the watch was given up.
    async fn gone(&self, members: &Members, seen: i64) -> Option<Result<()>> {
        loop {
            match self.look(seen) {
                Look::Opening => self.called.notified().await,
                Look::Over(result) => return result,
                Look::Covered => break,
                Look::Gap => match stands(members, &self.key, self.created).await {
                    Ok(true) => break,
                    gone => return Some(gone.map(drop)),
                },
            }
        }
        self.called.notified().await;
        match self.look(i64::MAX) {
            Look::Over(Some(Err(error))) => Some(Err(error)),
            _ => Some(Ok(())),
        }
    }

    fn look(&self, seen: i64) -> Look {
        let state = locked(&self.watch.state);
        match &state.phase {
            Phase::Opening => Look::Opening,
            Phase::Idle => Look::Over(None),
            Phase::Broken(error) => Look::Over(Some(Err(error.clone()))),
            Phase::Live if state.deleted.iter().any(|(at, key)| *at > seen && *key == self.key) => {
                Look::Over(Some(Ok(())))
            }
            Phase::Live if state.complete_from <= seen => Look::Covered,
            Phase::Live => Look::Gap,
        }
    }
}

/// What a waiter finds when it looks at its watch.
enum Look {
    Opening,
    /// The watch has covered everything since the waiter's own reading.
    Covered,
    /// Something may have happened before the watch began.
    Gap,
    Over(Option<Result<()>>),
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(waiters) = state.waiters.get_mut(&self.key) {
            waiters.retain(|called| !Arc::ptr_eq(called, &self.called));
            if waiters.is_empty() {
                state.waiters.remove(&self.key);
            }
        }
    }
}

/// Whether this key is there still: it may have gone, and be there anew.
async fn stands(members: &Members, key: &[u8], created: i64) -> Result<bool> {
    let read = |client: Arc<Client>| {
        let key = key.to_vec();
        async move { client.kv_client().get(key, None).await }
    };
    let read = members.call("looking at who is ahead", read).await?.value;
    Ok(read.kvs().first().is_some_and(|kv| kv.create_revision() == created))
}

impl Watch {
    fn is_over(&self) -> bool {
        matches!(locked(&self.state).phase, Phase::Idle | Phase::Broken(_))
    }

    fn set(&self, phase: Phase) {
        let mut state = locked(&self.state);
        state.phase = phase;
        state.waiters.values().flatten().for_each(|called| called.notify_one());
    }

    /// The watch covers everything after `revision`.
    fn go_live(&self, revision: i64) {
        locked(&self.state).complete_from = revision;
        self.set(Phase::Live);
    }

    fn deleted(&self, revision: i64, key: &[u8]) {
        let mut state = locked(&self.state);
        if let Some(waiters) = state.waiters.get(key) {
            waiters.iter().for_each(|called| called.notify_one());
        }
        state.deleted.push_back((revision, key.to_vec()));
        if state.deleted.len() > REMEMBERED {
            let forgotten = state.deleted.pop_front().map_or(0, |(revision, _)| revision);
            state.complete_from = state.complete_from.max(forgotten);
        }
    }
}

/// The task that keeps one watch.
struct Keeper {
    members: Arc<Members>,
    names: Arc<Mutex<Names>>,
    range: Vec<u8>,
    watch: Arc<Watch>,
}

impl Keeper {
    async fn run(self) {
        if let Err(error) = self.keep().await {
            self.forget(&mut locked(&self.names));
            self.watch.set(Phase::Broken(error));
        }
    }

    fn forget(&self, names: &mut Names) {
        if names.get(&self.range).is_some_and(|watch| Arc::ptr_eq(watch, &self.watch)) {
            names.remove(&self.range);
        }
    }

    /// Follows the watch until nobody needs it.
    async fn keep(&self) -> Result<()> {
        let open = |client: Arc<Client>| {
            let range = self.range.clone();
            async move {
                let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
                let mut stream = client.watch_client().watch(range, Some(options)).await?;
                let created = next(&mut stream).await?;
                Ok((stream, created))
            }
        };
        let opened = self.members.call("watching", open).await?;
        let ((mut stream, created), member) = (opened.value, opened.member);
        let mut looks = tokio::time::interval(LINGER);
        looks.reset();
        let revision = created.header().map_or(i64::MAX, |header| header.revision());
        self.watch.go_live(revision);
        loop {
            tokio::select! {
                response = next(&mut stream) => {
                    let response = response.map_err(|failure| {
                        crate::error::judge("watching", self.members.endpoint(member), failure).error
                    })?;
                    self.pass_on(&response)?;
                }
                () = self.members.moved_on_from(member) => return Err(broken("its member no longer answers")),
                _ = looks.tick() => if self.give_up() { return Ok(()) },
            }
        }
    }

    fn pass_on(&self, response: &WatchResponse) -> Result<()> {
        for event in response.events() {
            if let (EventType::Delete, Some(kv)) = (event.event_type(), event.kv()) {
                self.watch.deleted(kv.mod_revision(), kv.key());
            }
        }
        if response.canceled() || response.compact_revision() != 0 {
            return Err(broken(response.cancel_reason()));
        }
        Ok(())
    }

    /// Gives the watch up if nobody waits, and nobody has since the last look.
    fn give_up(&self) -> bool {
        let mut names = locked(&self.names);
        let mut state = locked(&self.watch.state);
        if std::mem::take(&mut state.used) || !state.waiters.is_empty() {
            return false;
        }
        state.phase = Phase::Idle;
        self.forget(&mut names);
        true
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Its runtime may have ended under it.
        if !self.watch.is_over() {
            self.watch.set(Phase::Broken(broken("its task has ended")));
        }
    }
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, etcd_client::Error> {
    let response = stream.message().await?;
    response.ok_or_else(|| etcd_client::Error::WatchError("the stream has ended".into()))
}

fn broken(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, format!("a watch of etcd has ended: {why}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("names", &locked(&self.names).len()).finish()
    }
}
