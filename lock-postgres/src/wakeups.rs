//! [`Wakeups`]: notifications of releases, for the waiters of this process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use lock_core::kit::locked;
use lock_core::runtime::background;
use lock_core::{Effect, Error, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::database::Database;
use crate::error;
use crate::pool::IDLE_TIMEOUT;
use crate::statement::{Statement, Value};

/// The one connection on which this process receives notifications of releases, and its
/// subscribers. It is opened for the first waiter, in the background, and again after it broke; it
/// is closed when nobody has waited for a while.
pub(crate) struct Wakeups {
    database: Arc<Database>,
    subscribers: Arc<Subscribers>,
    listener: Mutex<Option<Listener>>,
}

/// The task that listens.
struct Listener {
    state: watch::Receiver<ListenerState>,
    task: AbortHandle,
}

#[derive(Debug)]
enum ListenerState {
    Connecting,
    Listening,
    /// The connection broke or was closed, or could not be opened for this reason.
    Ended(Option<Error>),
}

/// Interval of the checks of a silent connection while somebody waits: a connection that is dead
/// looks like one that has nothing to report.
const LIVENESS_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// The subscriptions by lock name.
#[derive(Default)]
struct Subscribers(Mutex<HashMap<String, WeakSender>>);

type WeakSender = std::sync::Weak<watch::Sender<u64>>;

/// A subscription to the releases of one lock.
pub(crate) struct Subscription {
    subscribers: Arc<Subscribers>,
    name: String,
    sender: Option<Arc<watch::Sender<u64>>>,
    notifications: watch::Receiver<u64>,
}

impl Subscribers {
    fn subscribe(self: &Arc<Self>, name: &str) -> Subscription {
        let mut senders = self.locked();
        let sender = senders.get(name).and_then(WeakSender::upgrade).unwrap_or_else(|| {
            let sender = Arc::new(watch::Sender::new(0));
            senders.insert(name.to_owned(), Arc::downgrade(&sender));
            sender
        });
        let notifications = sender.subscribe();
        Subscription { subscribers: self.clone(), name: name.to_owned(), sender: Some(sender), notifications }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, WeakSender>> {
        locked(&self.0)
    }

    fn notify(&self, name: &str) {
        let sender = self.locked().get(name).and_then(WeakSender::upgrade);
        if let Some(sender) = sender {
            sender.send_modify(|count| *count += 1);
        }
    }

    fn is_empty(&self) -> bool {
        self.locked().is_empty()
    }

    fn notify_all(&self) {
        let all: Vec<_> = self.locked().values().filter_map(WeakSender::upgrade).collect();
        all.iter().for_each(|sender| sender.send_modify(|count| *count += 1));
    }
}

impl Wakeups {
    pub(crate) fn new(database: &Arc<Database>) -> Wakeups {
        Wakeups { database: database.clone(), subscribers: Arc::default(), listener: Mutex::default() }
    }

    /// Subscribes to the releases of a lock; no notification is missed from now on.
    pub(crate) fn subscribe(&self, name: &str) -> Subscription {
        self.subscribers.subscribe(name)
    }

    /// Waits until the connection listens. When it ends later, all subscribers are notified.
    ///
    /// # Cancel safety
    ///
    /// Opening the connection goes on, for other waiters.
    pub(crate) async fn ensure_listening(&self) -> Result<()> {
        let mut state = self.state()?;
        match state.wait_for(|state| !matches!(state, ListenerState::Connecting)).await.as_deref() {
            Ok(ListenerState::Ended(Some(error))) => Err(error.clone()),
            // If it ended just now, this subscription was notified.
            Ok(_) => Ok(()),
            Err(_) => Err(error::runtime_ended()),
        }
    }

    /// The state of the task that listens; the task is started if there is none.
    fn state(&self) -> Result<watch::Receiver<ListenerState>> {
        let mut listener = locked(&self.listener);
        if let Some(listener) = &*listener
            && !matches!(*listener.state.borrow(), ListenerState::Ended(_))
            && !listener.task.is_finished()
        {
            return Ok(listener.state.clone());
        }
        let (sender, state) = watch::channel(ListenerState::Connecting);
        let task = listen(self.database.clone(), self.subscribers.clone(), sender);
        let task = background()?.spawn(task).abort_handle();
        *listener = Some(Listener { state: state.clone(), task });
        Ok(state)
    }
}

/// Listens for releases and notifies subscribers, until the connection breaks or nobody has waited
/// for long.
async fn listen(database: Arc<Database>, subscribers: Arc<Subscribers>, state: watch::Sender<ListenerState>) {
    match open_listener(&database, &database.config().table.channel()).await {
        Ok(mut listener) => {
            state.send_replace(ListenerState::Listening);
            forward(&mut listener, database.config().response_timeout, &subscribers).await;
            // In this order: whoever subscribes later listens anew, and whoever subscribed before
            // is notified.
            state.send_replace(ListenerState::Ended(None));
            subscribers.notify_all();
        }
        Err(error) => drop(state.send_replace(ListenerState::Ended(Some(error)))),
    }
}

/// Passes notifications on to the subscribers.
async fn forward(listener: &mut PgListener, limit: Duration, subscribers: &Subscribers) {
    let mut last_needed = Instant::now();
    loop {
        match timeout(LIVENESS_CHECK_INTERVAL, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => subscribers.notify(notification.payload()),
            // `None`: the connection broke, and notifications were lost meanwhile.
            Ok(_) => return,
            Err(_) if !subscribers.is_empty() => {
                let ping = sqlx::Executor::execute(&mut *listener, "select 1");
                if !matches!(timeout(limit, ping).await, Ok(Ok(_))) {
                    return;
                }
                last_needed = Instant::now();
            }
            Err(_) if last_needed.elapsed() > IDLE_TIMEOUT => return,
            Err(_) => {}
        }
    }
}

/// A connection to the primary that listens on a channel, and does not reconnect by itself.
async fn open_listener(database: &Database, channel: &str) -> Result<PgListener> {
    const ACTION: &str = "listening for releases";
    let (server, limit) = (database.config().location(), database.config().connect_timeout);
    let opening = async {
        // Finds the primary again, which may be another server now.
        let mut other = database.connect().await?;
        let options = other.options.clone();
        // The client listens only on a connection of a pool.
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let listening = async {
            let pool = pool.test_before_acquire(false).connect_with(options).await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok(listener)
        };
        let mut listener = listening.await.map_err(|failed| error::classify_connect(&server, &failed))?;
        // Something between us and the server may accept `listen` and pass nothing on: only a
        // notification proves it.
        let hello = Statement::new(ACTION, "select pg_notify($1, '')");
        let sent = other.run(database.kind(), &hello, &[Value::text(channel)]).await;
        sent.map_err(|failed| error::classify(&server, ACTION, failed))?;
        match listener.try_recv().await {
            Ok(Some(_)) => Ok(listener),
            _ => Err(Error::no_answer(format_args!("{server}: {ACTION}"), limit, Effect::None)),
        }
    };
    let late = || Error::no_answer(format_args!("{server}: {ACTION}"), limit * 2, Effect::None);
    timeout(limit * 2, opening).await.unwrap_or_else(|_| Err(late()))
}

impl Subscription {
    /// Waits for a notification.
    ///
    /// # Cancel safety
    ///
    /// No notification is lost when the future is dropped.
    pub(crate) async fn recv(&mut self) {
        // It cannot fail: the sender is kept here.
        let _ = self.notifications.changed().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut senders = self.subscribers.locked();
        self.sender = None;
        if senders.get(&self.name).is_some_and(|sender| sender.strong_count() == 0) {
            senders.remove(&self.name);
        }
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        if let Some(listener) = &*locked(&self.listener) {
            listener.task.abort();
        }
    }
}

impl std::fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakeups").field("names", &self.subscribers.locked().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_name_is_told_of_it_and_of_no_other() {
        let subscribers = Arc::new(Subscribers::default());
        let (mut a, mut also_a) = (subscribers.subscribe("a"), subscribers.subscribe("a"));
        let mut b = subscribers.subscribe("b");
        subscribers.notify("a");
        a.recv().await;
        also_a.recv().await;
        assert!(!b.notifications.has_changed().unwrap());
        subscribers.notify_all();
        b.recv().await;
        drop((a, also_a, b));
        assert!(subscribers.is_empty());
    }
}
