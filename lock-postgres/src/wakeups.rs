//! [`Wakeups`]: what the releases of others are heard by.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Effect, Result};
use sqlx::postgres::{PgListener, PgPoolOptions};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error;
use crate::link::Link;
use crate::statement::{Statement, Value};

/// The one connection on which this process is told of releases, and who waits for which. It is made for the first
/// waiter, and again after it broke.
#[derive(Default)]
pub(crate) struct Wakeups {
    names: Arc<Names>,
    listener: tokio::sync::Mutex<Option<AbortHandle>>,
}

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
    fn locked(&self) -> MutexGuard<'_, HashMap<String, Weak>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, name: &str) {
        let teller = self.locked().get(name).and_then(Weak::upgrade);
        if let Some(teller) = teller {
            teller.send_modify(|count| *count += 1);
        }
    }

    fn tell_all(&self) {
        let all: Vec<_> = self.locked().values().filter_map(Weak::upgrade).collect();
        all.iter().for_each(|teller| teller.send_modify(|count| *count += 1));
    }
}

impl Wakeups {
    /// Begins to hear of a name; what is told from now on is not missed.
    pub(crate) fn ear(&self, name: &str) -> Ear {
        let mut names = self.names.locked();
        let told = names.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            let teller = Arc::new(watch::Sender::new(0));
            names.insert(name.to_owned(), Arc::downgrade(&teller));
            teller
        });
        let hears = told.subscribe();
        Ear { names: self.names.clone(), name: name.to_owned(), told: Some(told), hears }
    }

    /// Makes sure that releases are heard.
    ///
    /// # Cancel safety
    ///
    /// A connection that is being made is closed.
    pub(crate) async fn listen(&self, link: &Link, channel: &str) -> Result<()> {
        let mut running = self.listener.lock().await;
        if running.as_ref().is_some_and(|task| !task.is_finished()) {
            return Ok(());
        }
        let mut listener = listener(link, channel).await?;
        let names = self.names.clone();
        let task = tokio::spawn(async move {
            // `None`: the connection broke, and what was told meanwhile is lost.
            while let Ok(Some(told)) = listener.try_recv().await {
                names.tell(told.payload());
            }
            names.tell_all();
        });
        *running = Some(task.abort_handle());
        Ok(())
    }
}

/// A connection to the primary that listens on a channel, and does not connect again by itself.
async fn listener(link: &Link, channel: &str) -> Result<PgListener> {
    const DOING: &str = "listening for releases";
    let (to, limit) = (link.config().shown(), link.config().connect_timeout);
    let listening = async {
        // Finds the primary if it is another now.
        let options = link.dial().await?.options();
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
        link.run(&hello, &[Value::text(channel)]).await?;
        match listener.try_recv().await {
            Ok(Some(_)) => Ok(listener),
            _ => Err(error::timed_out(&to, DOING, limit, Effect::None)),
        }
    };
    let late = || error::timed_out(&to, DOING, limit * 2, Effect::None);
    tokio::time::timeout(limit * 2, listening).await.unwrap_or_else(|_| Err(late()))
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
        if let Some(task) = self.listener.get_mut() {
            task.abort();
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
        let wakeups = Wakeups::default();
        let (mut a, mut also_a, mut b) = (wakeups.ear("a"), wakeups.ear("a"), wakeups.ear("b"));
        wakeups.names.tell("a");
        a.told().await;
        also_a.told().await;
        assert!(!b.hears.has_changed().unwrap());
        wakeups.names.tell_all();
        b.told().await;
        drop((a, also_a, b));
        assert!(wakeups.names.locked().is_empty());
    }
}
