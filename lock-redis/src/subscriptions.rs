//! [`Subscriptions`]: what the releases of others are heard by.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

/// The channels that one connection hears, and who waits on them. All waiters of a process share it.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    channels: HashMap<String, Arc<Channel>>,
    /// The connection has ended: nothing will be heard any more.
    closed: bool,
}

/// One channel. Its mark is another after each message, and never one that another channel or connection had.
#[derive(Debug)]
pub(crate) struct Channel {
    version: watch::Sender<u64>,
    last_used: Mutex<Instant>,
}

/// A channel is left when nobody has waited on it for this long: the next waiter then need not subscribe again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

fn next_version() -> u64 {
    static VERSIONS: AtomicU64 = AtomicU64::new(0);
    VERSIONS.fetch_add(1, Ordering::Relaxed) + 1
}

impl Subscriptions {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The mark of a channel, to be read before the store is asked; 0 if it is not heard yet.
    pub(crate) fn version(&self, channel: &str) -> u64 {
        self.state().channels.get(channel).map_or(0, |channel| *channel.version.borrow())
    }

    /// A channel that is heard, or about to be.
    pub(crate) fn find(&self, channel: &str) -> Option<Arc<Channel>> {
        self.state().channels.get(channel).cloned()
    }

    /// Begins to keep a channel, unless it is kept already; the caller subscribes.
    pub(crate) fn add(&self, channel: &str) -> Arc<Channel> {
        let new =
            || Arc::new(Channel { version: watch::Sender::new(next_version()), last_used: Mutex::new(Instant::now()) });
        self.state().channels.entry(channel.to_owned()).or_insert_with(new).clone()
    }

    /// Forgets a channel; who waits on it looks again.
    pub(crate) fn remove(&self, channel: &str) {
        if let Some(channel) = self.state().channels.remove(channel) {
            channel.notify();
        }
    }

    /// Forgets the channels on which nobody waits, and gives their names: the caller unsubscribes.
    pub(crate) fn remove_idle(&self) -> Vec<String> {
        let mut state = self.state();
        let is_idle =
            |channel: &Arc<Channel>| Arc::strong_count(channel) == 1 && channel.last_used().elapsed() > IDLE_TIMEOUT;
        let idle: Vec<_> = state.channels.iter().filter(|(_, c)| is_idle(c)).map(|(name, _)| name.clone()).collect();
        idle.iter().for_each(|name| drop(state.channels.remove(name)));
        idle
    }

    /// What the server pushed.
    pub(crate) fn on_push(&self, push: &PushInfo) {
        match (&push.kind, &push.data[..]) {
            (PushKind::Message, [Value::BulkString(channel), ..]) => {
                let channel = std::str::from_utf8(channel).ok().and_then(|channel| self.find(channel));
                if let Some(channel) = channel {
                    channel.notify();
                }
            }
            (PushKind::Disconnection, _) => self.close(),
            _ => {}
        }
    }

    /// The connection has ended: everybody looks again.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.channels.drain().for_each(|(_, channel)| channel.notify());
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state().closed
    }
}

impl Channel {
    fn last_used(&self) -> MutexGuard<'_, Instant> {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn notify(&self) {
        // Also if nobody waits: who looked before must see that it changed.
        self.version.send_replace(next_version());
    }

    /// Waits until the mark is another than `seen`; at once if it is already.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn changed_since(&self, seen: u64) {
        *self.last_used() = Instant::now();
        let mut versions = self.version.subscribe();
        // The sender is borrowed here, and lives.
        let _ = versions.wait_for(|version| *version != seen).await;
        *self.last_used() = Instant::now();
    }
}
