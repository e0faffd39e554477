//! [`Watches`]: one long-lived watch for each name that somebody of this process waits for.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, EventType, ResponseHeader, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use lock_core::{Effect, Error, ErrorKind, HeldBy, Result};
use tokio::sync::Notify;

use crate::call::CallKind;
use crate::members::Members;
use crate::queue_entry::{MAX_SHORT_QUEUE, QueueEntry};
use crate::reply::Reply;
use crate::transactions::LockKey;

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
    by_range: Arc<Mutex<WatchMap>>,
}

type WatchMap = HashMap<Vec<u8>, Arc<NameWatch>>;

/// A watch of the keys of one name.
struct NameWatch {
    state: Mutex<WatchState>,
}

struct WatchState {
    phase: Phase,
    /// The latest deletions.
    deletions: VecDeque<Deletion>,
    /// Of what happened after this revision nothing is missing in `deleted`, once the watch is live.
    complete_from: i64,
    waiters: HashMap<Vec<u8>, Vec<Arc<Notify>>>,
    /// The keys that this process is deleting, with how many calls do so. Who waits for such a key is called by the answer,
    /// which says more than the watch.
    pending_deletions: HashMap<Vec<u8>, u32>,
    /// Whether somebody came to wait since the last look.
    used: bool,
    /// The keys of this process that wait in the line, by create revision, as far as is known.
    queue: BTreeMap<i64, Vec<u8>>,
    /// What the last of them was told of the holder.
    known_holder: HeldBy,
}

enum Phase {
    Opening,
    Live,
    /// Nobody needed it any more.
    Closed,
    Failed(Error),
}

/// The end of one key.
struct Deletion {
    revision: i64,
    key: Vec<u8>,
    next: Option<NextHead>,
}

/// Who was first in line after a release of this process.
#[derive(Clone, Debug)]
pub(crate) struct NextHead {
    /// The revision of the transaction that released, and read this.
    pub(crate) revision: i64,
    pub(crate) head: LockKey,
}

/// The deletion of a key by this process, until its answer has come.
pub(crate) struct PendingDeletion {
    watch: Arc<NameWatch>,
    key: Vec<u8>,
}

/// A waiter for the end of one key, until it is dropped.
struct Subscription {
    watch: Arc<NameWatch>,
    key: Vec<u8>,
    created: i64,
    woken: Arc<Notify>,
}

/// How many deletions are remembered for those who come between a reading and their waiting.
const MAX_DELETIONS: usize = 256;

/// How long a watch stays that nobody needs.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

impl Watches {
    pub(crate) fn new(members: Arc<Members>) -> Watches {
        Watches { members, by_range: Arc::default() }
    }

    /// Completes when the key that this place waits for, which stood at revision `seen`, may have gone; says who was first
    /// in line then, if that is known.
    pub(crate) async fn wait_for_deletion(&self, entry: &QueueEntry, seen: i64) -> Result<Option<NextHead>> {
        let Some((key, created)) = &entry.predecessor else { return Ok(None) };
        loop {
            let watch = self.find_or_open(&entry.range)?;
            watch.add_entry(entry);
            let ticket = Subscription::of(watch, key, *created);
            match ticket.wait(&self.members, seen).await {
                Some(result) => return result,
                // It had just been given up for lack of waiters.
                None => continue,
            }
        }
    }

    /// Whether somebody of this process has waited in this range lately.
    pub(crate) fn is_watched(&self, range: &[u8]) -> bool {
        self.find(range).is_some()
    }

    /// The last in line of this process, and what it was told of the holder, if a crowd of this process is in line.
    pub(crate) fn last_of_long_queue(&self, range: &[u8]) -> Option<(Vec<u8>, i64, HeldBy)> {
        let watch = self.find(range)?;
        let state = locked(&watch.state);
        let (created, key) = state.queue.last_key_value().filter(|_| state.queue.len() > MAX_SHORT_QUEUE as usize)?;
        Some((key.clone(), *created, state.known_holder.clone()))
    }

    /// The next of this process in line before this place.
    pub(crate) fn predecessor_of(&self, entry: &QueueEntry) -> Option<(Vec<u8>, i64)> {
        let watch = self.find(&entry.range)?;
        let state = locked(&watch.state);
        state.queue.range(..entry.create_revision).next_back().map(|(created, key)| (key.clone(), *created))
    }

    /// This place is being given up, or is no place any more.
    pub(crate) fn remove_entry(&self, entry: &QueueEntry) {
        if let Some(watch) = self.find(&entry.range) {
            locked(&watch.state).queue.remove(&entry.create_revision);
        }
    }

    fn find(&self, range: &[u8]) -> Option<Arc<NameWatch>> {
        locked(&self.by_range).get(range).filter(|watch| !watch.is_over()).cloned()
    }

    /// Says that `key` is being deleted; `None` if nobody of this process has waited in this range lately.
    pub(crate) fn start_deletion(&self, range: &[u8], key: &[u8]) -> Option<PendingDeletion> {
        let watch = self.find(range)?;
        *locked(&watch.state).pending_deletions.entry(key.to_vec()).or_default() += 1;
        Some(PendingDeletion { watch, key: key.to_vec() })
    }

    /// The watch for the keys in this range; it is opened if there is none.
    fn find_or_open(&self, range: &[u8]) -> Result<Arc<NameWatch>> {
        let mut names = locked(&self.by_range);
        if let Some(watch) = names.get(range).filter(|watch| !watch.is_over()) {
            return Ok(watch.clone());
        }
        let background = lock_core::runtime::background()?;
        let watch = Arc::new(NameWatch {
            state: Mutex::new(WatchState {
                phase: Phase::Opening,
                deletions: VecDeque::new(),
                complete_from: i64::MAX,
                waiters: HashMap::new(),
                pending_deletions: HashMap::new(),
                used: true,
                queue: BTreeMap::new(),
                known_holder: HeldBy::default(),
            }),
        });
        names.insert(range.to_vec(), watch.clone());
        let task = WatchTask {
            members: self.members.clone(),
            by_range: self.by_range.clone(),
            range: range.to_vec(),
            watch: watch.clone(),
        };
        background.spawn(task.run());
        Ok(watch)
    }
}

impl Subscription {
    fn of(watch: Arc<NameWatch>, key: &[u8], created: i64) -> Subscription {
        let woken = Arc::new(Notify::new());
        let mut state = locked(&watch.state);
        state.used = true;
        state.waiters.entry(key.to_vec()).or_default().push(woken.clone());
        drop(state);
        Subscription { watch, key: key.to_vec(), created, woken }
    }

    /// `None` if the watch was given up.
    async fn wait(&self, members: &Members, seen: i64) -> Option<Result<Option<NextHead>>> {
        loop {
            match self.coverage(seen) {
                Coverage::Opening => self.woken.notified().await,
                Coverage::Over(result) => return result,
                Coverage::Covered => break,
                Coverage::Gap => match is_unchanged(members, &self.key, self.created).await {
                    Ok(true) => break,
                    deletion => return Some(deletion.map(|_| None)),
                },
            }
        }
        self.woken.notified().await;
        match self.coverage(seen) {
            Coverage::Over(Some(result)) => Some(result),
            _ => Some(Ok(None)),
        }
    }

    fn coverage(&self, seen: i64) -> Coverage {
        let state = locked(&self.watch.state);
        let deletion =
            state.deletions.iter().rev().find(|deletion| deletion.revision > seen && deletion.key == self.key);
        match (deletion, &state.phase) {
            // The answer that is still to come says who is next.
            (Some(deletion), _) if deletion.next.is_some() || !state.pending_deletions.contains_key(&self.key) => {
                Coverage::Over(Some(Ok(deletion.next.clone())))
            }
            (_, Phase::Closed) => Coverage::Over(None),
            (_, Phase::Failed(error)) => Coverage::Over(Some(Err(error.clone()))),
            (_, Phase::Opening) => Coverage::Opening,
            (Some(_), Phase::Live) => Coverage::Covered,
            (None, Phase::Live) if state.complete_from <= seen => Coverage::Covered,
            (None, Phase::Live) => Coverage::Gap,
        }
    }
}

impl PendingDeletion {
    /// It was deleted at this revision, and `head` was first in line then.
    pub(crate) fn finish(self, revision: i64, head: Option<LockKey>) {
        let next = head.map(|head| NextHead { revision, head });
        locked(&self.watch.state).record_deletion(Deletion { revision, key: self.key.clone(), next });
    }
}

impl Drop for PendingDeletion {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(calls) = state.pending_deletions.get_mut(&self.key) {
            *calls -= 1;
            if *calls == 0 {
                state.pending_deletions.remove(&self.key);
            }
        }
        // Also if its answer never came: then they look for themselves.
        state.notify(&self.key);
    }
}

/// What a waiter finds when it looks at its watch.
enum Coverage {
    Opening,
    /// The watch has covered everything since the waiter's own reading.
    Covered,
    /// Something may have happened before the watch began.
    Gap,
    Over(Option<Result<Option<NextHead>>>),
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = locked(&self.watch.state);
        if let Some(waiters) = state.waiters.get_mut(&self.key) {
            waiters.retain(|woken| !Arc::ptr_eq(woken, &self.woken));
            if waiters.is_empty() {
                state.waiters.remove(&self.key);
            }
        }
    }
}

/// Whether this key is there still: it may have gone, and be there anew.
async fn is_unchanged(members: &Members, key: &[u8], created: i64) -> Result<bool> {
    let read = |client: Arc<Client>| {
        let key = key.to_vec();
        async move { client.kv_client().get(key, None).await }
    };
    let read = members.call(CallKind::Request, "looking at who is ahead", read).await?.value;
    Ok(read.kvs().first().is_some_and(|kv| kv.create_revision() == created))
}

impl NameWatch {
    fn is_over(&self) -> bool {
        matches!(locked(&self.state).phase, Phase::Closed | Phase::Failed(_))
    }

    /// This place waits in the line.
    fn add_entry(&self, entry: &QueueEntry) {
        if entry.create_revision != 0 {
            let mut state = locked(&self.state);
            state.queue.insert(entry.create_revision, entry.key.clone());
            state.known_holder = entry.known_holder.clone();
        }
    }

    fn set_phase(&self, phase: Phase) {
        let mut state = locked(&self.state);
        state.phase = phase;
        state.waiters.values().flatten().for_each(|woken| woken.notify_one());
    }

    /// The watch covers everything after `revision`.
    fn go_live(&self, revision: i64) {
        locked(&self.state).complete_from = revision;
        self.set_phase(Phase::Live);
    }

    /// The watch saw the end of this key.
    fn on_deleted(&self, revision: i64, key: &[u8]) {
        let mut state = locked(&self.state);
        state.record_deletion(Deletion { revision, key: key.to_vec(), next: None });
        if !state.pending_deletions.contains_key(key) {
            state.notify(key);
        }
    }
}

impl WatchState {
    /// Remembers a deletion, of which the watch and the one who did it may both tell, in any order.
    fn record_deletion(&mut self, deletion: Deletion) {
        let same = |known: &&mut Deletion| known.revision == deletion.revision && known.key == deletion.key;
        if let Some(known) = self.deletions.iter_mut().rev().find(same) {
            known.next = known.next.take().or(deletion.next);
            return;
        }
        self.deletions.push_back(deletion);
        if self.deletions.len() > MAX_DELETIONS {
            let forgotten = self.deletions.pop_front().map_or(0, |deletion| deletion.revision);
            self.complete_from = self.complete_from.max(forgotten);
        }
    }

    /// Calls who waits for the end of this key.
    fn notify(&self, key: &[u8]) {
        self.waiters.get(key).into_iter().flatten().for_each(|woken| woken.notify_one());
    }
}

/// A watch that was opened.
struct OpenedWatch {
    stream: WatchStream,
    created: WatchResponse,
}

impl Reply for OpenedWatch {
    const DENIES_EXPIRED_LOGINS: bool = true;

    fn header(&self) -> Option<&ResponseHeader> {
        self.created.header()
    }
}

/// The task that keeps one watch.
struct WatchTask {
    members: Arc<Members>,
    by_range: Arc<Mutex<WatchMap>>,
    range: Vec<u8>,
    watch: Arc<NameWatch>,
}

impl WatchTask {
    async fn run(self) {
        if let Err(error) = self.follow().await {
            self.remove_from(&mut locked(&self.by_range));
            self.watch.set_phase(Phase::Failed(error));
        }
    }

    fn remove_from(&self, names: &mut WatchMap) {
        if names.get(&self.range).is_some_and(|watch| Arc::ptr_eq(watch, &self.watch)) {
            names.remove(&self.range);
        }
    }

    /// Follows the watch until nobody needs it.
    async fn follow(&self) -> Result<()> {
        let open = |client: Arc<Client>| {
            let range = self.range.clone();
            async move {
                let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
                let mut stream = client.watch_client().watch(range, Some(options)).await?;
                let created = next(&mut stream).await?;
                match created.canceled() {
                    true => Err(etcd_client::Error::WatchError(created.cancel_reason().to_owned())),
                    false => Ok(OpenedWatch { stream, created }),
                }
            }
        };
        let opened = self.members.call(CallKind::Request, "watching", open).await?;
        let (OpenedWatch { mut stream, created }, member) = (opened.value, opened.member);
        let mut idle_check = tokio::time::interval(IDLE_TIMEOUT);
        idle_check.reset();
        let revision = created.header().map_or(i64::MAX, |header| header.revision());
        self.watch.go_live(revision);
        loop {
            tokio::select! {
                response = next(&mut stream) => {
                    let response = response.map_err(|failure| {
                        crate::error::classify("watching", self.members.endpoint(member), &failure).error
                    })?;
                    self.members.identity().check(self.members.endpoint(member), &response, 0)?;
                    self.on_events(&response)?;
                }
                () = self.members.until_not_preferred(member) => return Err(watch_ended("its member no longer answers")),
                _ = idle_check.tick() => if self.close_if_idle() { return Ok(()) },
            }
        }
    }

    fn on_events(&self, response: &WatchResponse) -> Result<()> {
        for event in response.events() {
            if let (EventType::Delete, Some(kv)) = (event.event_type(), event.kv()) {
                self.watch.on_deleted(kv.mod_revision(), kv.key());
            }
        }
        if response.canceled() || response.compact_revision() != 0 {
            return Err(watch_ended(response.cancel_reason()));
        }
        Ok(())
    }

    /// Gives the watch up if nobody waits, and nobody has since the last look.
    fn close_if_idle(&self) -> bool {
        let mut names = locked(&self.by_range);
        let mut state = locked(&self.watch.state);
        if std::mem::take(&mut state.used) || !state.waiters.is_empty() {
            return false;
        }
        state.phase = Phase::Closed;
        self.remove_from(&mut names);
        true
    }
}

impl Drop for WatchTask {
    fn drop(&mut self) {
        // Its runtime may have ended under it.
        if !self.watch.is_over() {
            self.watch.set_phase(Phase::Failed(watch_ended("its task has ended")));
        }
    }
}

async fn next(stream: &mut WatchStream) -> Result<WatchResponse, etcd_client::Error> {
    let response = stream.message().await?;
    response.ok_or_else(|| etcd_client::Error::WatchError("the stream has ended".into()))
}

fn watch_ended(why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, Effect::None, format!("a watch of etcd has ended: {why}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watches").field("names", &locked(&self.by_range).len()).finish()
    }
}
