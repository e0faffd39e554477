//! [`Watches`]: one long-lived watch for each name that somebody of this process waits for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, EventType, ResponseHeader, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use lock_core::{Effect, Error, ErrorKind, HeldBy, Result};
use tokio::sync::Notify;

use crate::cluster::Answer;
use crate::link::Lane;
use crate::members::Members;
use crate::place::{FAR, Place};
use crate::queue::Key;

/// One long-lived watch for each name that somebody of this process waits for.
///
/// A watch that starts at a revision which was already reached is served by etcd on a tick of 100 ms, which would cap
/// hand-overs at ten a second for each waiter. So a watch starts from now, stays for all waiters, and a waiter looks
/// once more unless the watch has covered everything since its own reading.
///
/// Where the holder is of this process too, the transaction of its release reads who is first in line then, and its
/// answer wakes the waiter: a hand-over within one process is one step.
///
/// Watches are kept in the background: the runtime of the waiter that was first may stand still.
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
    /// The latest deletions.
    deleted: VecDeque<Deletion>,
    /// Of what happened after this revision nothing is missing in `deleted`, once the watch is live.
    complete_from: i64,
    waiters: HashMap<Vec<u8>, Vec<Arc<Notify>>>,
    /// The keys that this process is deleting, with how many calls do so. Who waits for such a key is called by the answer,
    /// which says more than the watch.
    leaving: HashMap<Vec<u8>, u32>,
    /// Whether somebody came to wait since the last look.
    used: bool,
    /// The keys of this process that wait in the line, by create revision, as far as is known.
    line: BTreeMap<i64, Vec<u8>>,
    /// What the last of them was told of the holder.
    told: HeldBy,
}

enum Phase {
    Opening,
    Live,
    /// Nobody needed it any more.
    Idle,
    Broken(Error),
}

/// The end of one key.
struct Deletion {
    revision: i64,
    key: Vec<u8>,
    next: Option<Next>,
}

/// Who was first in line after a release of this process.
#[derive(Clone, Debug)]
pub(crate) struct Next {
    /// The revision of the transaction that released, and read this.
    pub(crate) revision: i64,
    pub(crate) head: Key,
}

/// The deletion of a key by this process, until its answer has come.
pub(crate) struct Leaving {
    watch: Arc<Watch>,
    key: Vec<u8>,
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

    /// Completes when the key that this place waits for, which stood at revision `seen`, may have gone; says who was first
    /// in line then, if that is known.
    pub(crate) async fn gone(&self, place: &Place, seen: i64) -> Result<Option<Next>> {
        let Some((key, created)) = &place.waits_for else { return Ok(None) };
        loop {
            let watch = self.watch(&place.range)?;
            watch.stands(place);
            let ticket = Ticket::of(watch, key, *created);
            match ticket.gone(&self.members, seen).await {
                Some(result) => return result,
                // It had just been given up for lack of waiters.
                None => continue,
            }
        }
    }

    /// Whether somebody of this process has waited in this range lately.
    pub(crate) fn has(&self, range: &[u8]) -> bool {
        self.live(range).is_some()
    }

    /// The last in line of this process, and what it was told of the holder, if a crowd of this process is in line.
    pub(crate) fn crowd(&self, range: &[u8]) -> Option<(Vec<u8>, i64, HeldBy)> {
        let watch = self.live(range)?;
        let state = locked(&watch.state);
        let (created, key) = state.line.last_key_value().filter(|_| state.line.len() > FAR as usize)?;
        Some((key.clone(), *created, state.told.clone()))
    }

    /// The next of this process in line before this place.
    pub(crate) fn before(&self, place: &Place) -> Option<(Vec<u8>, i64)> {
        let watch = self.live(&place.range)?;
        let state = locked(&watch.state);
        state.line.range(..place.created).next_back().map(|(created, key)| (key.clone(), *created))
    }

    /// This place is being given up, or is no place any more.
    pub(crate) fn left(&self, place: &Place) {
        if let Some(watch) = self.live(&place.range) {
            locked(&watch.state).line.remove(&place.created);
        }
    }

    fn live(&self, range: &[u8]) -> Option<Arc<Watch>> {
        locked(&self.names).get(range).filter(|watch| !watch.is_over()).cloned()
    }

    /// Says that `key` is being deleted; `None` if nobody of this process has waited in this range lately.
    pub(crate) fn leaving(&self, range: &[u8], key: &[u8]) -> Option<Leaving> {
        let watch = self.live(range)?;
        *locked(&watch.state).leaving.entry(key.to_vec()).or_default() += 1;
        Some(Leaving { watch, key: key.to_vec() })
    }

    /// The watch for the keys in this range; it is opened if there is none.
    fn watch(&self, range: &[u8]) -> Result<Arc<Watch>> {
        let mut names = locked(&self.names);
        if let Some(watch) = names.get(range).filter(|watch| !watch.is_over()) {
            return Ok(watch.clone());
        }
        let background = lock_core::runtime::background()?;
        let watch = Arc::new(Watch {
            state: Mutex::new(State {
                phase: Phase::Opening,
                deleted: VecDeque::new(),
                complete_from: i64::MAX,
                waiters: HashMap::new(),
                leaving: HashMap::new(),
                used: true,
                line: BTreeMap::new(),
                told: HeldBy::default(),
            }),
        });
        names.insert(range.to_vec(), watch.clone());
        let keeper = Keeper {
            members: self.members.clone(),
            names: self.names.clone(),
            range: range.to_vec(),
            watch: watch.clone(),
        };
        background.spawn(keeper.run());
        Ok(watch)
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
    async fn gone(&self, members: &Members, seen: i64) -> Option<Result<Option<Next>>> {
        loop {
            match self.look(seen) {
                Look::Opening => self.called.notified().await,
                Look::Over(result) => return result,
                Look::Covered => break,
                Look::Gap => match stands(members, &self.key, self.created).await {
                    Ok(true) => break,
                    gone => return Some(gone.map(|_| None)),
                },
            }
        }
        self.called.notified().await;
        match self.look(seen) {
            Look::Over(Some(result)) => Some(result),
            _ => Some(Ok(None)),
        }
    }

    fn look(&self, seen: i64) -> Look {
        let state = locked(&self.watch.state);
        let gone = state.deleted.iter().rev().find(|gone| gone.revision > seen && gone.key == self.key);
        match (gone, &state.phase) {
            // The answer that is still to come says who is next.
            (Some(gone), _) if gone.next.is_some() || !state.leaving.contains_key(&self.key) => {
                Look::Over(Some(Ok(gone.next.clone())))
            }
            (_, Phase::Idle) => Look::Over(None),
            (_, Phase::Broken(error)) => Look::Over(Some(Err(error.clone()))),
            (_, Phase::Opening) => Look::Opening,
            (Some(_), Phase::Live) => Look::Covered,
            (None, Phase::Live) if state.complete_from <= seen => Look::Covered,
            (None, Phase::Live) => Look::Gap,
        }
    }
}

impl Leaving {
    /// It was deleted at this revision, and `head` was first in line then.
    pub(crate) fn done(self, revision: i64, head: Option<Key>) {
        let next = head.map(|head| Next { revision, head });
        locked(&self.watch.state).deleted(Deletion { revision, key: self.key.clone(), next });
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(calls) = state.leaving.get_mut(&self.key) {
            *calls -= 1;
            if *calls == 0 {
                state.leaving.remove(&self.key);
            }
        }
        // Also if its answer never came: then they look for themselves.
        state.call(&self.key);
    }
}

/// What a waiter finds when it looks at its watch.
enum Look {
    Opening,
    /// The watch has covered everything since the waiter's own reading.
    Covered,
    /// Something may have happened before the watch began.
    Gap,
    Over(Option<Result<Option<Next>>>),
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
    let read = members.call(Lane::Ask, "looking at who is ahead", read).await?.value;
    Ok(read.kvs().first().is_some_and(|kv| kv.create_revision() == created))
}

impl Watch {
    fn is_over(&self) -> bool {
        matches!(locked(&self.state).phase, Phase::Idle | Phase::Broken(_))
    }

    /// This place waits in the line.
    fn stands(&self, place: &Place) {
        if place.created != 0 {
            let mut state = locked(&self.state);
            state.line.insert(place.created, place.key.clone());
            state.told = place.told.clone();
        }
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

    /// The watch saw the end of this key.
    fn deleted(&self, revision: i64, key: &[u8]) {
        let mut state = locked(&self.state);
        state.deleted(Deletion { revision, key: key.to_vec(), next: None });
        if !state.leaving.contains_key(key) {
            state.call(key);
        }
    }
}

impl State {
    /// Remembers a deletion, of which the watch and the one who did it may both tell, in any order.
    fn deleted(&mut self, deletion: Deletion) {
        let same = |known: &&mut Deletion| known.revision == deletion.revision && known.key == deletion.key;
        if let Some(known) = self.deleted.iter_mut().rev().find(same) {
            known.next = known.next.take().or(deletion.next);
            return;
        }
        self.deleted.push_back(deletion);
        if self.deleted.len() > REMEMBERED {
            let forgotten = self.deleted.pop_front().map_or(0, |deletion| deletion.revision);
            self.complete_from = self.complete_from.max(forgotten);
        }
    }

    /// Calls who waits for the end of this key.
    fn call(&self, key: &[u8]) {
        self.waiters.get(key).into_iter().flatten().for_each(|called| called.notify_one());
    }
}

/// A watch that was opened.
struct Watched {
    stream: WatchStream,
    created: WatchResponse,
}

impl Answer for Watched {
    const HIDES_OLD_LOGINS: bool = true;

    fn header(&self) -> Option<&ResponseHeader> {
        self.created.header()
    }
}

impl Answer for WatchResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        self.header()
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
                match created.canceled() {
                    true => Err(etcd_client::Error::WatchError(created.cancel_reason().to_owned())),
                    false => Ok(Watched { stream, created }),
                }
            }
        };
        let opened = self.members.call(Lane::Ask, "watching", open).await?;
        let (Watched { mut stream, created }, member) = (opened.value, opened.member);
        let mut looks = tokio::time::interval(LINGER);
        looks.reset();
        let revision = created.header().map_or(i64::MAX, |header| header.revision());
        self.watch.go_live(revision);
        loop {
            tokio::select! {
                response = next(&mut stream) => {
                    let response = response.map_err(|failure| {
                        crate::error::judge("watching", self.members.endpoint(member), &failure).error
                    })?;
                    self.members.cluster().check(self.members.endpoint(member), &response, 0)?;
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
