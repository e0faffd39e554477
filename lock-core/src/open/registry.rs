//! [`Registry`]: which stores there are, as a value.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::url::StoreUrl;
use crate::contract::LockStore;
use crate::words::{Clock, Error, ErrorKind, Guarantees, Result};

/// Opens the stores of some schemes; each store crate has one.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// What it opens.
    fn kind(&self) -> StoreKind;

    /// Opens the store at `url`. `all` is for stores over stores; `clock` is what sessions are stamped with.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a URL or a store that cannot be used;
    /// [`Unavailable`](ErrorKind::Unavailable), [`TimedOut`](ErrorKind::TimedOut) or [`Denied`](ErrorKind::Denied).
    async fn open(&self, url: &StoreUrl, all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>>;

    /// As [`open`](Driver::open), for those who only look: what is not there is refused, and not made. A store that
    /// opening makes nothing of needs no more than what stands here.
    ///
    /// # Errors
    ///
    /// As [`open`](Driver::open), and [`InvalidConfig`](ErrorKind::InvalidConfig) for what is not there.
    async fn open_existing(&self, url: &StoreUrl, all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.open(url, all, clock).await
    }

    /// The statements by which the store at `url` is initialised, for those who do it by hand; `None` for a store that
    /// needs nothing before it is opened. Asks no server.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a URL that cannot be used.
    fn init_script(&self, _url: &StoreUrl) -> Result<Option<String>> {
        Ok(None)
    }

    /// Initialises the store at `url`, so that it can be opened; changes nothing if that was done. It is asked only where
    /// there is an [`init_script`](Driver::init_script).
    ///
    /// # Errors
    ///
    /// As [`open`](Driver::open).
    async fn init(&self, url: &StoreUrl) -> Result<()> {
        Err(Error::refused(ErrorKind::InvalidConfig, format!("{url} needs no initialising: opening it is enough")))
    }
}

/// A kind of store, as tables and refusals show it.
#[derive(Clone, Copy, Debug)]
pub struct StoreKind {
    /// The schemes of its URLs, the usual one first.
    pub schemes: &'static [&'static str],
    /// An example of a URL.
    pub example: &'static str,
    /// What it promises at best; a store that is open says what it promises as configured.
    pub at_best: Guarantees,
    /// On what that depends, in a few words; empty if on nothing.
    pub provided: &'static str,
}

/// Which stores there are, and the names of those that were not compiled in. A value: nothing is global.
#[derive(Clone, Default)]
pub struct Registry {
    drivers: Vec<Arc<dyn Driver>>,
    missing: Vec<MissingDriver>,
}

/// A store that was not compiled in.
#[derive(Clone, Copy, Debug)]
pub struct MissingDriver {
    /// The schemes of its URLs.
    pub schemes: &'static [&'static str],
    /// The feature that would bring it.
    pub feature: &'static str,
}

impl Registry {
    /// No stores.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// With this driver.
    #[must_use]
    pub fn with(mut self, driver: impl Driver) -> Registry {
        self.drivers.push(Arc::new(driver));
        self
    }

    /// With the names of a store that was not compiled in, so that asking for it says which feature is missing.
    #[must_use]
    pub fn without(mut self, schemes: &'static [&'static str], feature: &'static str) -> Registry {
        self.missing.push(MissingDriver { schemes, feature });
        self
    }

    /// The kinds of stores that there are.
    pub fn kinds(&self) -> impl Iterator<Item = StoreKind> {
        self.drivers.iter().map(|driver| driver.kind())
    }

    /// The stores that were not compiled in.
    pub fn missing(&self) -> &[MissingDriver] {
        &self.missing
    }

    /// Opens the store at this URL: what [`connect`](Registry::connect) does first, and stores over stores for each
    /// member.
    ///
    /// # Errors
    ///
    /// As [`Driver::open`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this scheme, with those that do.
    pub async fn open(&self, url: &StoreUrl, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.driver(url)?.open(url, self, clock).await
    }

    /// As [`open`](Registry::open), for those who only look: what is not there is refused, and not made.
    ///
    /// # Errors
    ///
    /// As [`Driver::open_existing`].
    pub async fn open_existing(&self, url: &StoreUrl, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.driver(url)?.open_existing(url, self, clock).await
    }

    /// The statements by which the store at this URL is initialised by hand; `None` for one that needs none.
    ///
    /// # Errors
    ///
    /// As [`Driver::init_script`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this scheme.
    pub fn init_script(&self, url: &StoreUrl) -> Result<Option<String>> {
        self.driver(url)?.init_script(url)
    }

    /// Initialises the store at this URL; changes nothing if that was done, or is not needed. Gives whether it is needed.
    ///
    /// # Errors
    ///
    /// As [`Driver::init`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this scheme.
    ///
    /// # Cancel safety
    ///
    /// As that of the store; what was begun may be done, or not.
    pub async fn init(&self, url: &StoreUrl) -> Result<bool> {
        let driver = self.driver(url)?;
        if driver.init_script(url)?.is_none() {
            return Ok(false);
        }
        driver.init(url).await.map(|()| true)
    }

    fn driver(&self, url: &StoreUrl) -> Result<&Arc<dyn Driver>> {
        let scheme = url.scheme();
        if let Some(driver) = self.drivers.iter().find(|driver| driver.kind().schemes.contains(&scheme)) {
            return Ok(driver);
        }
        let text = match self.missing.iter().find(|missing| missing.schemes.contains(&scheme)) {
            Some(missing) => {
                format!("the store {scheme}: was not compiled in: it needs the feature `{}`", missing.feature)
            }
            None => {
                if let Some(text) = url.as_host_and_port() {
                    return Err(Error::refused(ErrorKind::InvalidConfig, text));
                }
                let alike =
                    self.similar_scheme(scheme).map(|alike| format!("; did you mean {alike}:?")).unwrap_or_default();
                format!("there is no store {scheme}:{alike}")
            }
        };
        Err(Error::refused(ErrorKind::InvalidConfig, format!("{text}; there is {}", self.schemes())))
    }

    /// The scheme that somebody may have meant, of those that were not compiled in too.
    fn similar_scheme(&self, scheme: &str) -> Option<&'static str> {
        let there = self.kinds().flat_map(|kind| kind.schemes);
        let all = there.chain(self.missing.iter().flat_map(|missing| missing.schemes)).copied();
        let near = all.map(|known| (distance(scheme, known), known)).filter(|(distance, known)| {
            // Of a short word two letters are most of it.
            *distance <= 2 && *distance < known.len() / 2 + 1
        });
        near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
    }

    fn schemes(&self) -> String {
        let schemes: Vec<_> = self.kinds().flat_map(|kind| kind.schemes).map(|scheme| format!("{scheme}:")).collect();
        if schemes.is_empty() { "no store at all".to_owned() } else { schemes.join(", ") }
    }

    /// Checks that `store` promises at least `least`.
    pub(crate) fn require(&self, scheme: &str, store: &dyn LockStore, least: &Guarantees) -> Result<()> {
        let Err(missing) = store.guarantees().require(least, &format!("the store {scheme}:")) else { return Ok(()) };
        let able: Vec<_> = self
            .kinds()
            .filter(|kind| kind.at_best.shortfalls(least).is_empty())
            .map(|kind| match kind.provided {
                "" => format!("{}:", kind.schemes[0]),
                provided => format!("{}: ({provided})", kind.schemes[0]),
            })
            .collect();
        let able = if able.is_empty() { "none that was compiled in".to_owned() } else { able.join(", ") };
        Err(Error::refused(ErrorKind::TooWeak, format!("{missing}; stores that promise it: {able}")))
    }
}

/// How many letters have to be added, removed or changed to make one word of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<_> = other.chars().collect();
    let mut row: Vec<_> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], at + 1);
        for (column, theirs) in other.iter().enumerate() {
            let changed = corner + usize::from(letter != *theirs);
            corner = row[column + 1];
            row[column + 1] = changed.min(corner + 1).min(row[column] + 1);
        }
    }
    row[other.len()]
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("kinds", &self.kinds().collect::<Vec<_>>())
            .field("missing", &self.missing)
            .finish()
    }
}

/// The driver of `memory:`: each connection is a store of its own.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryDriver;

#[async_trait]
impl Driver for MemoryDriver {
    fn kind(&self) -> StoreKind {
        StoreKind {
            schemes: &["memory"],
            example: "memory:",
            at_best: crate::MemoryStore::new().guarantees(),
            provided: "",
        }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        url.only_keys(&[])?;
        if !url.path().is_empty() || !url.hosts().is_empty() {
            let text = format!("{url} is not accepted: the store in memory is memory: and has no path or host");
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        Ok(Arc::new(crate::MemoryStore::with_clock(clock.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store that needs a table.
    struct Tables;

    #[async_trait]
    impl Driver for Tables {
        fn kind(&self) -> StoreKind {
            StoreKind { schemes: &["tables"], example: "", at_best: Guarantees::NONE, provided: "" }
        }

        async fn open(&self, _: &StoreUrl, _: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
            Ok(Arc::new(crate::MemoryStore::with_clock(clock.clone())))
        }

        fn init_script(&self, url: &StoreUrl) -> Result<Option<String>> {
            url.only_keys(&[])?;
            Ok(Some("create table".to_owned()))
        }

        async fn init(&self, url: &StoreUrl) -> Result<()> {
            match url.path() {
                "down" => Err(Error::refused(ErrorKind::Unavailable, "it is down")),
                _ => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_told_which_one_may_be_meant() {
        let registry = Registry::new().with(MemoryDriver).with(Tables).without(&["postgres"], "postgres");
        let refusal = |text: &str| registry.init_script(&text.parse().unwrap()).unwrap_err().to_string();
        assert!(
            refusal("table:x").contains("did you mean tables:?; there is memory:, tables:"),
            "{}",
            refusal("table:x")
        );
        assert!(refusal("postgress:x").contains("did you mean postgres:?"));
        let far = refusal("consul://h");
        assert!(!far.contains("did you mean") && far.contains("there is memory:, tables:"), "{far}");
        assert!(refusal("localhost:6379").contains("redis://localhost:6379"));
        assert_eq!((distance("", "ab"), distance("kitten", "sitting"), distance("zk", "zk")), (2, 3, 0));
    }

    #[tokio::test]
    async fn a_store_that_needs_something_is_initialised_and_another_is_not_asked() {
        let registry = Registry::new().with(MemoryDriver).with(Tables);
        let url = |text: &str| text.parse::<StoreUrl>().unwrap();
        assert_eq!(registry.init_script(&url("memory:")).unwrap(), None);
        assert!(!registry.init(&url("memory:")).await.unwrap());
        assert_eq!(registry.init_script(&url("tables:x")).unwrap().as_deref(), Some("create table"));
        assert!(registry.init(&url("tables:x")).await.unwrap());
        for (text, kind) in [
            ("tables:down", ErrorKind::Unavailable),
            ("tables:x?tpyo=1", ErrorKind::InvalidConfig),
            ("nowhere:", ErrorKind::InvalidConfig),
        ] {
            assert_eq!(registry.init(&url(text)).await.unwrap_err().kind(), kind, "{text}");
        }
        let refused = MemoryDriver.init(&url("memory:")).await.unwrap_err();
        assert!(refused.to_string().contains("needs no initialising"), "{refused}");
    }
}
