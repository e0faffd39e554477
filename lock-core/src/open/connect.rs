//! [`Connect`]: from a URL to [`Locks`].

use std::fmt;
use std::future::{Future, IntoFuture};
use std::marker::PhantomData;
use std::pin::Pin;
use std::time::Duration;

use super::registry::Registry;
use super::url::StoreUrl;
use crate::engine::check_call_timeout;
use crate::locks::settings::Settings;
use crate::locks::{FencedGuard, Guard, LockGuard, Locks, settings};
use crate::runtime;
use crate::words::{Effect, Error, Guarantees, Result};

/// A connection to a store that is being set up: first settings, then `.await`.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lock_core::Result<()> {
/// let registry = lock_core::Registry::new().with(lock_core::MemoryDriver);
/// let locks = registry.connect("memory:").holder_info("nightly").await?;
/// let refused = registry.connect("memory:").for_correctness().await.unwrap_err();
/// assert_eq!(refused.kind(), lock_core::ErrorKind::TooWeak);
/// # Ok(()) }
/// ```
///
/// # Errors
///
/// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a URL that is not accepted or a store
/// that does not exist; [`TooWeak`](crate::ErrorKind::TooWeak) where the store does not promise
/// what is required; [`Unavailable`](crate::ErrorKind::Unavailable),
/// [`TimedOut`](crate::ErrorKind::TimedOut) or [`Denied`](crate::ErrorKind::Denied) from the store.
///
/// # Cancel safety
///
/// A store that is not yet open is left unchanged.
#[must_use = "connecting begins when this is awaited"]
pub struct Connect<G: Guard = LockGuard> {
    registry: Registry,
    url: Result<StoreUrl>,
    settings: Settings,
    least: Vec<Guarantees>,
    existing: bool,
    guard: PhantomData<fn() -> G>,
}

impl Connect {
    pub(crate) fn new(registry: Registry, url: Result<StoreUrl>) -> Connect {
        Connect { registry, url, settings: Settings::default(), least: Vec::new(), existing: false, guard: PhantomData }
    }

    /// For locks that must never have two holders: the guards carry fencing tokens, and a store
    /// that cannot keep their order is refused with the reason.
    pub fn for_correctness(self) -> Connect<FencedGuard> {
        let Connect { registry, url, settings, least, existing, .. } = self;
        Connect { registry, url, settings, least, existing, guard: PhantomData }
    }
}

impl<G: Guard> Connect<G> {
    /// Refuses a store that promises less than this.
    pub fn require(mut self, least: Guarantees) -> Self {
        self.least.push(least);
        self
    }

    /// Refuses a store that does not exist, and creates nothing; for commands that only read. A
    /// mistyped path of a file would otherwise show free locks.
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }

    /// Sets a free text about the holders of this process, for people. It is cut after 256 bytes.
    pub fn holder_info(mut self, text: impl Into<String>) -> Self {
        self.settings.holder_text = text.into();
        self
    }

    /// Sets the time-out of one call to the store, including connecting; by default 5 seconds, or
    /// longer if the time-outs in the URL require it.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.settings.call_timeout = Some(limit);
        self
    }

    /// Sets the margin: how much earlier than the store a holder stops believing; by default 1 % of
    /// the TTL plus 2 ms.
    pub fn margin(mut self, margin: Duration) -> Self {
        self.settings.clock = self.settings.clock.with_margin(margin);
        self
    }

    /// Sets the TTL of locks that set none; by default 30 seconds.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.settings.defaults.ttl = ttl;
        self
    }

    /// Sets the longest wait of locks that set none; by default there is no limit.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.settings.defaults.wait = Some(limit);
        self
    }

    async fn connect(self) -> Result<Locks<G>> {
        let Connect { registry, url, mut settings, least, existing, .. } = self;
        runtime::background()?;
        let url = url?;
        let limit = *settings.call_timeout.get_or_insert_with(|| default_call_timeout(&url));
        check_call_timeout(limit)?;
        let opening = async {
            match existing {
                true => registry.open_existing(&url, &settings.clock).await,
                false => registry.open(&url, &settings.clock).await,
            }
        };
        let late = |_| Err(Error::no_answer(&url, limit, Effect::None));
        let store = tokio::time::timeout(limit, opening).await.unwrap_or_else(late)?;
        for least in std::iter::once(&G::LEAST).chain(&least) {
            registry.require(url.scheme(), &*store, least)?;
        }
        Ok(Locks::of(store, settings))
    }
}

impl Registry {
    /// Connects to the store at this URL; await it.
    pub fn connect(&self, url: impl AsRef<str>) -> Connect {
        Connect::new(self.clone(), url.as_ref().parse())
    }
}

/// Default call time-out for this URL. It is not shorter than the sum of the time-outs in the URL,
/// which would otherwise have no effect.
fn default_call_timeout(url: &StoreUrl) -> Duration {
    const TIMEOUTS: [&str; 3] = ["connect_timeout", "response_timeout", "wait_timeout"];
    // PostgreSQL's own `connect_timeout` is a number of seconds. Where a store takes none, it is
    // refused when the store is opened.
    let seconds = |key: &str| url.number(key).ok().flatten().map(Duration::from_secs);
    let asked = |key: &&str| url.duration(key).ok().flatten().or_else(|| seconds(key));
    let asked = TIMEOUTS.iter().filter_map(asked).fold(Duration::ZERO, Duration::saturating_add);
    asked.max(settings::DEFAULT_CALL_TIMEOUT)
}

impl<G: Guard> IntoFuture for Connect<G> {
    type Output = Result<Locks<G>>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(runtime::on_any_runtime(self.connect()))
    }
}

impl<G: Guard> fmt::Debug for Connect<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connect").field("url", &self.url).field("least", &self.least).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_in_a_url_lengthens_the_time_for_a_call() {
        for (url, seconds) in [
            ("redis://h", 5),
            ("redis://h?connect_timeout=1s", 5),
            ("redis://h?connect_timeout=20s&response_timeout=10s", 30),
            ("etcd://h?response_timeout=7s", 7),
            ("postgres://h?connect_timeout=10", 10),
        ] {
            let url = url.parse().expect("a URL");
            assert_eq!(default_call_timeout(&url), Duration::from_secs(seconds), "{url}");
        }
    }
}
