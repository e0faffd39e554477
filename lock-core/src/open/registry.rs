//! [`Registry`]: the available stores, as a value.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::url::StoreUrl;
use crate::contract::LockStore;
use crate::words::{Clock, Error, ErrorKind, Guarantees, Result};

/// Opens the stores of some URL schemes. Each store crate has one.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The kind of store that it opens.
    fn kind(&self) -> StoreKind;

    /// Opens the store at `url`. `all` is for stores over stores; `clock` stamps the sessions.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a URL or a store that cannot be used;
    /// [`Unavailable`](ErrorKind::Unavailable), [`TimedOut`](ErrorKind::TimedOut) or
    /// [`Denied`](ErrorKind::Denied).
    async fn open(&self, url: &StoreUrl, all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>>;

    /// As [`open`](Driver::open), for callers that only read: a store that does not exist is
    /// refused, and not created. A driver whose `open` creates nothing needs only this default.
    ///
    /// # Errors
    ///
    /// As [`open`](Driver::open), and [`InvalidConfig`](ErrorKind::InvalidConfig) for a store that
    /// does not exist.
    async fn open_existing(&self, url: &StoreUrl, all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.open(url, all, clock).await
    }

    /// The statements that initialise the store at `url`, to be run by hand; `None` for a store
    /// that needs none before it is opened. It contacts no server.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a URL that cannot be used.
    fn init_script(&self, _url: &StoreUrl) -> Result<Option<String>> {
        Ok(None)
    }

    /// Initialises the store at `url`, so that it can be opened. It is idempotent, and called only
    /// where there is an [`init_script`](Driver::init_script).
    ///
    /// # Errors
    ///
    /// As [`open`](Driver::open).
    async fn init(&self, url: &StoreUrl) -> Result<()> {
        Err(Error::invalid_config(format!("{url} needs no initialising: opening it is enough")))
    }
}

/// A kind of store, as tables and refusals show it.
#[derive(Clone, Copy, Debug)]
pub struct StoreKind {
    /// The schemes of its URLs, the usual one first.
    pub schemes: &'static [&'static str],
    /// An example of a URL.
    pub example: &'static str,
    /// Its guarantees at best. An open store has the guarantees of its actual configuration.
    pub at_best: Guarantees,
    /// Condition for `at_best`, in a few words; empty if there is none.
    pub provided: &'static str,
}

/// The available stores, and the names of those that were not compiled in. It is a value: nothing
/// is global.
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
    /// The feature that compiles it in.
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

    /// With the names of a store that was not compiled in, so that a refusal of it names the
    /// missing feature.
    #[must_use]
    pub fn without(mut self, schemes: &'static [&'static str], feature: &'static str) -> Registry {
        self.missing.push(MissingDriver { schemes, feature });
        self
    }

    /// The kinds of the available stores.
    pub fn kinds(&self) -> impl Iterator<Item = StoreKind> {
        self.drivers.iter().map(|driver| driver.kind())
    }

    /// The stores that were not compiled in.
    pub fn missing(&self) -> &[MissingDriver] {
        &self.missing
    }

    /// Opens the store at this URL. [`connect`](Registry::connect) starts with it, and a store over
    /// stores calls it for each member.
    ///
    /// # Errors
    ///
    /// As [`Driver::open`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this
    /// scheme; the text names the known ones.
    pub async fn open(&self, url: &StoreUrl, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.driver(url)?.open(url, self, clock).await
    }

    /// As [`open`](Registry::open), for callers that only read: a store that does not exist is
    /// refused, and not created.
    ///
    /// # Errors
    ///
    /// As [`Driver::open_existing`].
    pub async fn open_existing(&self, url: &StoreUrl, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        self.driver(url)?.open_existing(url, self, clock).await
    }

    /// The statements that initialise the store at this URL by hand; `None` for a store that needs
    /// none.
    ///
    /// # Errors
    ///
    /// As [`Driver::init_script`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this
    /// scheme.
    pub fn init_script(&self, url: &StoreUrl) -> Result<Option<String>> {
        self.driver(url)?.init_script(url)
    }

    /// Initialises the store at this URL. It is idempotent. Returns false if the store needs no
    /// initialising.
    ///
    /// # Errors
    ///
    /// As [`Driver::init`]; [`InvalidConfig`](ErrorKind::InvalidConfig) if no store has this
    /// scheme.
    ///
    /// # Cancel safety
    ///
    /// As that of the store; a statement that was started may or may not take effect.
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
                    return Err(Error::invalid_config(text));
                }
                let alike =
                    self.similar_scheme(scheme).map(|alike| format!("; did you mean {alike}:?")).unwrap_or_default();
                format!("there is no store {scheme}:{alike}")
            }
        };
        Err(Error::invalid_config(format!("{text}; there is {}", self.schemes())))
    }

    /// The scheme that is most similar, also of those that were not compiled in.
    fn similar_scheme(&self, scheme: &str) -> Option<&'static str> {
        let available = self.kinds().flat_map(|kind| kind.schemes);
        let all = available.chain(self.missing.iter().flat_map(|missing| missing.schemes)).copied();
        let near = all.map(|known| (distance(scheme, known), known)).filter(|(distance, known)| {
            // Two letters are most of a short word.
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

/// Edit distance: number of letters to add, remove or change to get from one word to the other.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{MemoryDriver, MemoryStore};

    /// A store that needs a table.
    struct Tables;

    #[async_trait]
    impl Driver for Tables {
        fn kind(&self) -> StoreKind {
            StoreKind { schemes: &["tables"], example: "", at_best: Guarantees::NONE, provided: "" }
        }

        async fn open(&self, _: &StoreUrl, _: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
            Ok(Arc::new(MemoryStore::with_clock(clock.clone())))
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
