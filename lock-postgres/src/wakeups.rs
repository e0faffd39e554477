//! [`Wakeups`]: what the releases of others are heard by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lock_core::runtime::background;
use lock_core::{Effect, Error, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use crate::error;
use crate::link::Link;
use crate::pool::KEEPS;
use crate::statement::{Statement, Value};

/// The one connection on which this process is told of releases, and who waits for which. It is made for the first
/// waiter, in the background, and again after it broke; it is closed when nobody has waited for a while.
pub(crate) struct Wakeups {
    link: Arc<Link>,
    names: Arc<Names>,
    listener: Mutex<Option<Listener>>,
}

/// The task that listens.
struct Listener {
    state: watch::Receiver<State>,
    task: AbortHandle,
}

#[derive(Debug)]
enum State {
    Connecting,
    Listening,
    /// It is told, or not even begun, no more.
    Ended(Option<Error>),
}

/// After so long without a word, while somebody waits, the server is asked for one: a connection that nothing comes over
/// any more looks like one that nobody has anything to say on.
const SILENCE: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Names(Mutex<HashMap<String, Weak>>);

type Weak = std::sync::Weak<watch::Sender<u64>>;

/// The wish to be told of the releases of one name.
pub(crate) struct Ear {
    names: Arc<Names>,
    name: String,
    told: Option<Arc<watch::Sender<u64>>>,
    hears: watch::Receiver<u64>,
}

impl Names {
    fn ear(self: &Arc<Self>, name: &str) -> Ear {
        let mut names = self.locked();
        let told = names.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let teller = Arc::new(watch::Sender::new(0));
            names.insert(name.to_owned(), Arc::downgrade(&teller));
            teller
        });
        let hears = told.subscribe();
        Ear { names: self.clone(), name: name.to_owned(), told: Some(told), hears }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<String, Weak>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, name: &str) {
        let teller = self.locked().get(name).and_then(Weak::upgrade);
        if let Some(teller) = teller {
            teller.send_modify(|count| *count += 1);
        }
    }

    fn are_waited_for(&self) -> bool {
        !self.locked().is_empty()
    }

    fn tell_all(&self) {
        let all: Vec<_> = self.locked().values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|teller| teller.send_modify(|count| *count += 1));
    }
}

impl Wakeups {
    pub(crate) fn new(link: &Arc<Link>) -> Wakeups {
        Wakeups { link: link.clone(), names: Arc::default(), listener: Mutex::default() }
    }

    /// Begins to hear of a name; what is told from now on is not missed.
    pub(crate) fn ear(&self, name: &str) -> Ear {
        self.names.ear(name)
    }

    /// Makes sure that releases are heard. If they are not any more, all ears are told.
    ///
    /// # Cancel safety
    ///
    /// What was begun goes on, for others.
    pub(crate) async fn listen(&self) -> Result<()> {
        let mut state = self.state()?;
        match state.wait_for(|state| !matches!(state, State::Connecting)).await.as_deref() {
            Ok(State::Ended(Some(error))) => Err(error.clone()),
            // Ended just now: then this ear was told.
            Ok(_) => Ok(()),
            Err(_) => Err(error::ending()),
        }
    }

    /// The state of the task that listens, which is begun if there is none.
    fn state(&self) -> Result<watch::Receiver<State>> {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = &*listener
            && !matches!(*listener.state.borrow(), State::Ended(_))
            && !listener.task.is_finished()
        {
            return Ok(listener.state.clone());
        }
        let (sender, state) = watch::channel(State::Connecting);
        let task = background()?.spawn(hear(self.link.clone(), self.names.clone(), sender)).abort_handle();
        *listener = Some(Listener { state: state.clone(), task });
        Ok(state)
    }
}

/// Hears of releases, and tells who waits for them, until the connection breaks or nobody has waited for long.
async fn hear(link: Arc<Link>, names: Arc<Names>, state: watch::Sender<State>) {
    match connect(&link, &link.config().table.channel()).await {
        Ok(mut listener) => {
            state.send_replace(State::Listening);
            hear_on(&mut listener, link.config().response_timeout, &names).await;
            // In this order: who comes later listens anew, and who came before is told.
            state.send_replace(State::Ended(None));
            names.tell_all();
        }
        Err(error) => drop(state.send_replace(State::Ended(Some(error)))),
    }
}

async fn hear_on(listener: &mut PgListener, limit: Duration, names: &Names) {
    let mut waited_for = Instant::now();
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(told))) => names.tell(told.payload()),
            // `None`: the connection broke, and what was told meanwhile is lost.
            Ok(_) => return,
            Err(_) if names.are_waited_for() => {
                let hello = sqlx::Executor::execute(&mut *listener, "select 1");
                if !matches!(timeout(limit, hello).await, Ok(Ok(_))) {
                    return;
                }
                waited_for = Instant::now();
            }
            Err(_) if waited_for.elapsed() > KEEPS => return,
            Err(_) => {}
        }
    }
}

/// A connection to the primary that listens on a channel, and does not connect again by itself.
async fn connect(link: &Link, channel: &str) -> Result<PgListener> {
    const DOING: &str = "listening for releases";
    let (to, limit) = (link.config().shown(), link.config().connect_timeout);
    let listening = async {
        // Finds the primary if it is another now.
        let mut other = link.dial().await?;
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
        let mut listener = listening.await.map_err(|failed| error::of_connecting(&to, &failed))?;
        // Something on the way may accept the wish and pass nothing on: it is believed when it is heard.
        let hello = Statement::new(DOING, "select pg_notify($1, '')");
        let said = other.ask(link.way(), &hello, &[Value::text(channel)]).await;
        said.map_err(|failed| error::of_step(&to, DOING, failed))?;
        match listener.try_recv().await {
            Ok(Some(_)) => Ok(listener),
            _ => Err(error::timed_out(&to, DOING, limit, Effect::None)),
        }
    };
    let late = || error::timed_out(&to, DOING, limit * 2, Effect::None);
    timeout(limit * 2, listening).await.unwrap_or_else(|_| Err(late()))
}

impl Ear {
    /// Waits until something is told.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn told(&mut self) {
        // The teller is kept here, and lives.
        let _ = self.hears.changed().await;
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        let mut names = self.names.locked();
        self.told = None;
        if names.get(&self.name).is_some_and(|teller| teller.strong_count() == 0) {
            names.remove(&self.name);
        }
    }
}

impl Drop for Wakeups {
    fn drop(&mut self) {
        let listener = self.listener.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(listener) = listener {
            listener.task.abort();
        }
    }
}

impl std::fmt::Debug for Wakeups {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wakeups").field("names", &self.names.locked().len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_name_is_told_of_it_and_of_no_other() {
        let names = Arc::new(Names::default());
        let (mut a, mut also_a, mut b) = (names.ear("a"), names.ear("a"), names.ear("b"));
        names.tell("a");
        a.told().await;
        also_a.told().await;
        assert!(!b.hears.has_changed().unwrap());
        names.tell_all();
        b.told().await;
        drop((a, also_a, b));
        assert!(!names.are_waited_for());
    }
}
