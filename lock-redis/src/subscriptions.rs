//! [`Subscriptions`]: the channels on which releases are published.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use lock_core::kit::locked;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::watch;

/// The channels that one connection is subscribed to. All waiters of a runtime share them.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    channels: HashMap<String, Arc<Channel>>,
    /// The connection has ended, and receives no message any more.
    closed: bool,
}

/// One channel. Its version changes with each message, and is unique across channels and
/// connections.
#[derive(Debug)]
pub(crate) struct Channel {
    version: watch::Sender<u64>,
    last_used: Mutex<Instant>,
}

/// Time without a waiter after which a channel is unsubscribed: within it the next waiter need not
/// subscribe again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

fn next_version() -> u64 {
    static VERSIONS: AtomicU64 = AtomicU64::new(0);
    VERSIONS.fetch_add(1, Ordering::Relaxed) + 1
}

impl Subscriptions {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.0)
    }

    /// The version of a channel, to be read before a request; 0 if it is not subscribed to.
    pub(crate) fn version(&self, channel: &str) -> u64 {
        self.state().channels.get(channel).map_or(0, |channel| *channel.version.borrow())
    }

    /// A channel that is subscribed to, or about to be.
    pub(crate) fn find(&self, channel: &str) -> Option<Arc<Channel>> {
        self.state().channels.get(channel).cloned()
    }

    /// Adds a channel, unless it is there already; the caller subscribes.
    pub(crate) fn add(&self, channel: &str) -> Arc<Channel> {
        let new =
            || Arc::new(Channel { version: watch::Sender::new(next_version()), last_used: Mutex::new(Instant::now()) });
        self.state().channels.entry(channel.to_owned()).or_insert_with(new).clone()
    }

    /// Forgets a channel; its waiters ask the store again.
    pub(crate) fn remove(&self, channel: &str) {
        if let Some(channel) = self.state().channels.remove(channel) {
            channel.notify();
        }
    }

    /// Forgets the idle channels, and returns their names: the caller unsubscribes.
    pub(crate) fn remove_idle(&self) -> Vec<String> {
        let mut state = self.state();
        let is_idle =
            |channel: &Arc<Channel>| Arc::strong_count(channel) == 1 && channel.last_used().elapsed() > IDLE_TIMEOUT;
        let idle: Vec<_> = state.channels.iter().filter(|(_, c)| is_idle(c)).map(|(name, _)| name.clone()).collect();
        idle.iter().for_each(|name| drop(state.channels.remove(name)));
        idle
    }

    /// Handles a push message of the server.
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

    /// Ends with the connection; all waiters ask the store again.
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
        locked(&self.last_used)
    }

    /// Changes the version, and wakes the waiters.
    pub(crate) fn notify(&self) {
        // Also without waiters: a request before it must find that the version has changed.
        self.version.send_replace(next_version());
    }

    /// Waits until the version differs from `seen`; returns at once if it does already.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn changed_since(&self, seen: u64) {
        *self.last_used() = Instant::now();
        let mut versions = self.version.subscribe();
        // No error: the sender lives, since it is borrowed here.
        let _ = versions.wait_for(|version| *version != seen).await;
        *self.last_used() = Instant::now();
    }
}
