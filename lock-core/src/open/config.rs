//! [`Config`]: named profiles of stores, for a program's own configuration file.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

use super::connect::Connect;
use super::registry::Registry;
use super::url::{StoreUrl, parse_host};
use crate::words::{Error, Expiry, Faults, Guarantees, Offers, Result, WaitStyle};

/// Named profiles of stores: the part of a program's own configuration file that is about locks, in
/// any format that serde reads.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let text = r#"
///     [locks.reports]
///     url = "sqlite:/var/lib/reports/locks.db"
///     ttl = "30s"
///     wait = "1m 30s"
///
///     [locks.ledger]
///     store = { scheme = "etcd", hosts = ["10.0.0.1", "10.0.0.2:2379"], path = "/ledger", user = "app", password = "…" }
///     purpose = "correctness"
///     require = { records-survive = ["minority-loss"], waiting = "queued" }
/// "#;
/// let config: lock_core::Config = toml::from_str(text)?;
///
/// let registry = lock_core::Registry::new().with(lock_core::MemoryDriver);
/// let connect = config.connect(&registry, "reports")?; // … .await?, where the store was compiled in
/// let unknown = config.connect(&registry, "raports").unwrap_err();
/// assert!(unknown.to_string().contains("there are ledger, reports"));
/// # drop(connect); Ok(()) }
/// ```
///
/// An unknown key is an error of the format. `Debug` shows no password; an error of the format may
/// show the line that it is about.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// The profiles by name.
    #[serde(default)]
    pub locks: BTreeMap<String, Profile>,
}

/// One store, with the settings of its locks.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Profile {
    /// The store's URL, in one line; either this or [`store`](Profile::store).
    pub url: Option<String>,
    /// The store's URL, in parts; either this or [`url`](Profile::url).
    pub store: Option<StoreParts>,
    /// Purpose of the locks; by default efficiency.
    pub purpose: Purpose,
    /// TTL of locks that set none, such as `30s`.
    #[serde(deserialize_with = "time")]
    pub ttl: Option<Duration>,
    /// Longest wait of locks that set none, such as `1m 30s`; without it, there is no limit.
    #[serde(deserialize_with = "time")]
    pub wait: Option<Duration>,
    /// Time-out of one call to the store, such as `500ms`.
    #[serde(deserialize_with = "time")]
    pub call_timeout: Option<Duration>,
    /// Margin: how much earlier than the store a holder stops believing.
    #[serde(deserialize_with = "time")]
    pub margin: Option<Duration>,
    /// Free text about the holders, for people.
    pub holder_info: Option<String>,
    /// Further requirements on the store.
    pub require: Option<Require>,
}

/// A [`StoreUrl`] in parts, with the same meaning.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct StoreParts {
    /// The scheme, which chooses the store.
    pub scheme: String,
    /// The hosts, each with its port if it is not the default one.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// The path. It begins with a slash if there are hosts.
    #[serde(default)]
    pub path: String,
    /// The user.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The keys of the store with their values: text, numbers, `true` and `false`.
    #[serde(default)]
    pub keys: BTreeMap<String, KeyValue>,
}

/// Value of a key, as the text that stands in a URL.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue(String);

/// Purpose of locks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Purpose {
    /// A double run costs money.
    #[default]
    Efficiency,
    /// A double run is a bug: a store that cannot keep the order of its tokens is refused.
    Correctness,
}

/// Requirements on a store. A requirement that is not set is not checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
#[non_exhaustive]
pub struct Require {
    /// Faults that the record of a held lock must survive, such as `["crash", "fail-over"]`.
    pub records_survive: Faults,
    /// Faults that the order of fencing tokens must survive; an empty list requires only that there
    /// are tokens.
    pub tokens_survive: Option<Faults>,
    /// How a lease must end, such as `{ ttl = "boot-time" }` or `"connection"`.
    pub expiry: Option<Expiry>,
    /// How waiters must learn that a lock may be free, such as `"queued"`.
    pub waiting: Option<WaitStyle>,
    /// What the store must be able to do beside granting a name to one holder, such as `["read",
    /// "permits"]`.
    pub offers: Offers,
}

impl Config {
    /// Connects to the store of this profile, with its settings; await it. With the purpose
    /// `correctness`, a store that is too weak is refused then. For guards that carry tokens, call
    /// [`for_correctness`](Connect::for_correctness) as well.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if there is no such profile (the text
    /// names the existing ones), or if it does not name a store.
    pub fn connect(&self, registry: &Registry, profile: &str) -> Result<Connect> {
        let found = self.locks.get(profile).ok_or_else(|| {
            let known: Vec<_> = self.locks.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            Error::invalid_config(format!("there is no profile {profile:?} of locks; there are {known}"))
        })?;
        found
            .connect(registry)
            .map_err(|error| Error::invalid_config(format!("the profile {profile:?} of locks: {error}")))
    }
}

impl Profile {
    /// The store's URL.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is missing, given twice, or not
    /// accepted.
    pub fn store_url(&self) -> Result<StoreUrl> {
        match (&self.url, &self.store) {
            (Some(url), None) => url.parse(),
            (None, Some(parts)) => parts.to_url(),
            (None, None) => Err(Error::invalid_config("it says no store: it takes `url` or `store`")),
            (Some(_), Some(_)) => Err(Error::invalid_config("it says two stores: it takes either `url` or `store`")),
        }
    }

    fn connect(&self, registry: &Registry) -> Result<Connect> {
        let mut connect = Connect::new(registry.clone(), Ok(self.store_url()?));
        if self.purpose == Purpose::Correctness {
            connect = connect.require(Guarantees::FOR_CORRECTNESS);
        }
        if let Some(require) = self.require {
            connect = connect.require(require.into());
        }
        if let Some(ttl) = self.ttl {
            connect = connect.ttl(ttl);
        }
        if let Some(wait) = self.wait {
            connect = connect.wait(wait);
        }
        if let Some(limit) = self.call_timeout {
            connect = connect.call_timeout(limit);
        }
        if let Some(margin) = self.margin {
            connect = connect.margin(margin);
        }
        if let Some(text) = &self.holder_info {
            connect = connect.holder_info(text);
        }
        Ok(connect)
    }
}

impl StoreParts {
    /// The URL with the same meaning.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for parts that no URL can express.
    pub fn to_url(&self) -> Result<StoreUrl> {
        // The scheme of a URL ends at its first colon, and the text after it would be taken for the
        // rest.
        if self.scheme.contains(':') {
            return Err(Error::invalid_config("the scheme of a store has lower-case letters, digits, + and - only"));
        }
        let mut url: StoreUrl = format!("{}:", self.scheme).parse()?;
        for host in &self.hosts {
            let (host, port) =
                parse_host(host).map_err(|why| Error::invalid_config(format!("the hosts are not accepted: {why}")))?;
            url = url.with_host(host, port);
        }
        if !(self.hosts.is_empty() || self.path.is_empty() || self.path.starts_with('/')) {
            return Err(Error::invalid_config("the path of a store with hosts begins with a slash"));
        }
        if self.user.is_some() || self.password.is_some() {
            // As in `redis://:password@host`, a password may stand alone.
            url = url.with_user(self.user.clone().unwrap_or_default(), self.password.clone());
        }
        let url = url.with_path(&self.path);
        Ok(self.keys.iter().fold(url, |url, (key, value)| url.with_key(key, &value.0)))
    }
}

impl From<Require> for Guarantees {
    fn from(require: Require) -> Guarantees {
        let mut least = Guarantees::NONE.records_survive(require.records_survive).offers(require.offers);
        least.tokens_survive = require.tokens_survive;
        least.expiry = require.expiry;
        require.waiting.map_or(least, |waiting| least.waiting(waiting))
    }
}

impl KeyValue {
    /// The value as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for KeyValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KeyValue, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = KeyValue;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("text, a whole number, true or false")
            }

            fn visit_str<E>(self, text: &str) -> Result<KeyValue, E> {
                Ok(KeyValue(text.to_owned()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<KeyValue, E> {
                Ok(KeyValue(number.to_string()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<KeyValue, E> {
                Ok(KeyValue(number.to_string()))
            }

            fn visit_bool<E>(self, flag: bool) -> Result<KeyValue, E> {
                Ok(KeyValue(flag.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A time as text, in the same format as in a URL.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map(Some)
        .map_err(|_| de::Error::custom(format!("{text:?} is not accepted: it takes a time such as 500ms, 2s or 1m")))
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile")
            .field("store", &self.store_url())
            .field("purpose", &self.purpose)
            .field("ttl", &self.ttl)
            .field("wait", &self.wait)
            .field("call_timeout", &self.call_timeout)
            .field("margin", &self.margin)
            .field("holder_info", &self.holder_info)
            .field("require", &self.require)
            .finish()
    }
}

impl fmt::Debug for StoreParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to_url() {
            Ok(url) => fmt::Debug::fmt(&url, f),
            Err(error) => fmt::Debug::fmt(&error, f),
        }
    }
}

impl fmt::Debug for KeyValue {
    /// Without the value: it depends on the key if it is a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValue(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDriver;
    use crate::words::{ClockKind, ErrorKind, Fault};

    fn profile(text: &str) -> Profile {
        let config: Config = toml::from_str(&format!("[locks.p]\n{text}")).unwrap();
        config.locks["p"].clone()
    }

    #[test]
    fn a_table_and_a_url_give_the_same_store() {
        for (url, table) in [
            ("memory:", r#"scheme = "memory""#),
            ("sqlite:/a/b%20c?busy=2s", r#"scheme = "sqlite", path = "/a/b c", keys = { busy = "2s" }"#),
            (
                "redis://me:p%40ss@[::1]:7000,b/2?wait=1&tls=true",
                r#"scheme = "redis", hosts = ["[::1]:7000", "b"], path = "/2", user = "me", password = "p@ss",
                   keys = { wait = 1, tls = true }"#,
            ),
            ("redis://:pass@h", r#"scheme = "redis", hosts = ["h"], password = "pass""#),
            ("etcd://me@h", r#"scheme = "etcd", hosts = ["h"], user = "me""#),
        ] {
            let table = table.replace('\n', " ");
            let from_url = profile(&format!("url = {url:?}")).store_url().unwrap();
            assert_eq!(profile(&format!("store = {{ {table} }}")).store_url().unwrap(), from_url, "{url}");
        }
    }

    #[test]
    fn every_setting_is_read() {
        let profile = profile(
            r#"
            url = "memory:"
            purpose = "correctness"
            ttl = "30s"
            wait = "0s"
            call-timeout = "500ms"
            margin = "1m 1ms"
            holder-info = "nightly"
            [locks.p.require]
            records-survive = ["crash"]
            tokens-survive = []
            expiry = { ttl = "boot-time" }
            waiting = "notified"
            "#,
        );
        assert_eq!(profile.purpose, Purpose::Correctness);
        assert_eq!((profile.ttl, profile.wait), (Some(Duration::from_secs(30)), Some(Duration::ZERO)));
        assert_eq!(profile.call_timeout, Some(Duration::from_millis(500)));
        assert_eq!(profile.margin, Some(Duration::from_millis(60_001)));
        assert_eq!(profile.holder_info.as_deref(), Some("nightly"));
        let asked = Guarantees::NONE
            .records_survive(Fault::Crash.into())
            .tokens_survive(Faults::NONE)
            .expiry(Expiry::Ttl(ClockKind::BootTime))
            .waiting(WaitStyle::Notified);
        assert_eq!(Guarantees::from(profile.require.unwrap()), asked);
    }

    #[test]
    fn what_is_not_known_or_no_time_is_refused() {
        for (text, says) in [
            ("lock = 1", "unknown field"),
            ("[locks.p]\nurl = 'memory:'\nttl_ = '1s'", "unknown field"),
            ("[locks.p]\nurl = 'memory:'\nttl = '1 fortnight'", "a time such as"),
            ("[locks.p]\nurl = 'memory:'\npurpose = 'fun'", "unknown variant"),
            ("[locks.p]\nurl = 'memory:'\nrequire = { waiting_ = 'queued' }", "unknown field"),
            ("[locks.p]\nstore = { scheme = 'a', port = 1 }", "unknown field"),
            ("[locks.p]\nstore = { scheme = 'a', keys = { k = [] } }", "true or false"),
        ] {
            let error = toml::from_str::<Config>(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn an_unknown_profile_is_refused_with_those_that_there_are() {
        let registry = Registry::new().with(MemoryDriver);
        let config: Config = toml::from_str("[locks.b]\nurl='memory:'\n[locks.a]\nurl='memory:'").unwrap();
        let error = config.connect(&registry, "c").unwrap_err();
        assert_eq!(error.to_string(), "there is no profile \"c\" of locks; there are a, b");
        assert!(Config::default().connect(&registry, "c").unwrap_err().to_string().ends_with("there are none"));
    }

    #[test]
    fn a_profile_says_one_store_that_a_url_could_say() {
        let registry = Registry::new();
        for (text, says) in [
            ("ttl = '1s'", "no store"),
            ("url = 'memory:'\nstore = { scheme = 'memory' }", "two stores"),
            ("url = 'hunter2'", "no scheme"),
            ("store = { scheme = 'redis://me:hunter2@h' }", "the scheme"),
            ("store = { scheme = 'redis', hosts = ['h:hunter2'] }", "a port is no number"),
            ("store = { scheme = 'redis', hosts = ['h'], path = 'hunter2' }", "begins with a slash"),
        ] {
            let config: Config = toml::from_str(&format!("[locks.ledger]\n{text}")).unwrap();
            let error = config.connect(&registry, "ledger").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let error = error.to_string();
            assert!(error.contains(says) && error.contains("\"ledger\"") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn no_debug_text_shows_a_secret() {
        for text in [
            "url = 'redis://me:hunter2@h?sentinel_password=hunter2'",
            "url = 'hunter2'",
            "store = { scheme = 'redis', password = 'hunter2', keys = { auth_token = 'hunter2' } }",
            "store = { scheme = 'hunter2:', password = 'hunter2' }",
        ] {
            let profile = profile(text);
            let shown =
                format!("{profile:?} {:?} {:?}", profile.store, profile.store.as_ref().map(|store| &store.keys));
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }

    #[tokio::test]
    async fn a_profile_for_correctness_refuses_a_store_that_is_too_weak() {
        let registry = Registry::new().with(MemoryDriver);
        let text = r#"
            [locks.cheap]
            url = "memory:"
            [locks.ledger]
            url = "memory:"
            purpose = "correctness"
            [locks.demanding]
            url = "memory:"
            require = { records-survive = ["crash"] }
        "#;
        let config: Config = toml::from_str(text).unwrap();
        config.connect(&registry, "cheap").unwrap().await.unwrap();
        for name in ["ledger", "demanding"] {
            let refused = config.connect(&registry, name).unwrap().await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TooWeak);
        }
        let refused = config.connect(&registry, "cheap").unwrap().for_correctness().await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TooWeak);
    }

    #[tokio::test]
    async fn the_defaults_of_a_profile_reach_its_locks() {
        let registry = Registry::new().with(MemoryDriver);
        let text = "[locks.p]\nurl = 'memory:'\nttl = '77s'\nwait = '0s'\nholder-info = 'nightly'";
        let locks = toml::from_str::<Config>(text).unwrap().connect(&registry, "p").unwrap().await.unwrap();
        let guard = locks.lock("a").acquire().await.unwrap();
        assert_eq!(guard.ttl(), Duration::from_secs(77));
        let contended = locks.lock("a").acquire().await.unwrap_err();
        assert_eq!(contended.kind(), ErrorKind::Contended);
        assert!(contended.held_by().unwrap().to_string().contains("nightly"));
    }
}
