//! [`StoreUrl`]: the address of a store and its settings, in one line.

mod parse;
mod values;

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use self::parse::parse_host;
use crate::words::{Error, Result};

/// Address of a store and its settings, in one line:
/// `scheme://user:password@host:port,host/path?key=value`, or without hosts `scheme:path`.
///
/// Several hosts are separated by commas. User, password, path and values may be percent-encoded,
/// and a `/` or `?` in a user or password must be. An `@` after the hosts must be, too: otherwise
/// the rest of a password would be taken for a path.
///
/// `Display` and `Debug` show `***` in place of the password, of a user without a password (which
/// may be one), and of the value of every key whose name ends in `password`, `secret` or `token`.
///
/// ```
/// # fn main() -> lock_core::Result<()> {
/// let url: lock_core::StoreUrl = "etcd://app:s3cret@10.0.0.1,10.0.0.2:2379/locks?connect_timeout=2s".parse()?;
/// assert_eq!(url.hosts(), [("10.0.0.1".to_owned(), None), ("10.0.0.2".to_owned(), Some(2379))]);
/// assert_eq!(url.to_string(), "etcd://app:***@10.0.0.1,10.0.0.2:2379/locks?connect_timeout=2s");
/// # Ok(()) }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    scheme: String,
    user: Option<String>,
    password: Option<String>,
    hosts: Vec<(String, Option<u16>)>,
    path: String,
    keys: BTreeMap<String, String>,
}

const SECRET: &str = "***";

/// Spellings of other programs, each with the key that means the same here.
const OTHER_SPELLINGS: [(&str, &str); 5] = [
    ("cert", "certificate"),
    ("sslcert", "certificate"),
    ("sslkey", "key"),
    ("sslrootcert", "ca"),
    ("timeout", "response_timeout"),
];

impl StoreUrl {
    /// An empty URL of this scheme, to be completed by the `with_…` methods.
    pub fn new(scheme: impl Into<String>) -> StoreUrl {
        StoreUrl {
            scheme: scheme.into(),
            user: None,
            password: None,
            hosts: Vec::new(),
            path: String::new(),
            keys: BTreeMap::new(),
        }
    }

    /// With this user, and a password if there is one.
    #[must_use]
    pub fn with_user(mut self, user: impl Into<String>, password: Option<String>) -> StoreUrl {
        self.user = Some(user.into());
        self.password = password;
        self
    }

    /// With one more host.
    #[must_use]
    pub fn with_host(mut self, host: impl Into<String>, port: Option<u16>) -> StoreUrl {
        self.hosts.push((host.into(), port));
        self
    }

    /// With this path.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> StoreUrl {
        self.path = path.into();
        self
    }

    /// With this key and value.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>, value: impl Into<String>) -> StoreUrl {
        self.keys.insert(key.into(), value.into());
        self
    }

    /// Without this key.
    #[must_use]
    pub fn without_key(mut self, key: &str) -> StoreUrl {
        self.keys.remove(key);
        self
    }

    /// The scheme, which chooses the store.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// The user, if there is one.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The password, if there is one. Keep it out of every text.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
    }

    /// The hosts with their ports; empty for `scheme:path`.
    pub fn hosts(&self) -> &[(String, Option<u16>)] {
        &self.hosts
    }

    /// The path, with its leading slash if there are hosts; empty if there is none.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<&str> {
        self.keys.get(key).map(String::as_str)
    }

    /// Checks that there are no keys but the accepted ones.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig); the text names the accepted keys, and the
    /// right one for a known other spelling.
    pub fn only_keys(&self, accepted: &[&str]) -> Result<()> {
        let Some(key) = self.keys.keys().find(|key| !accepted.contains(&key.as_str())) else { return Ok(()) };
        let right = OTHER_SPELLINGS.iter().find(|(other, right)| other == key && accepted.contains(right));
        let hint = right.map(|(_, right)| format!("write {right}; ")).unwrap_or_default();
        let keys = if accepted.is_empty() {
            "it takes no keys".to_owned()
        } else {
            format!("its keys are {}", accepted.join(", "))
        };
        let scheme = &self.scheme;
        Err(Error::invalid_config(format!("the key {key:?} is not accepted in a {scheme}: URL; {hint}{keys}")))
    }

    /// The URL of the member at the `at`-th host of a store over stores: of this scheme, without
    /// these keys.
    pub(crate) fn for_member(&self, scheme: &str, at: usize, without: &[&str]) -> StoreUrl {
        let mut url = self.clone();
        url.scheme = scheme.to_owned();
        url.hosts = vec![self.hosts[at].clone()];
        url.keys.retain(|key, _| !without.contains(&key.as_str()));
        url
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.scheme)?;
        if !self.hosts.is_empty() || self.user.is_some() {
            f.write_str("//")?;
            if let Some(user) = &self.user {
                // A user without a password may be a password: some clients of Redis treat it as
                // one.
                match &self.password {
                    Some(_) => write!(f, "{user}:{SECRET}@")?,
                    None => write!(f, "{SECRET}@")?,
                }
            }
            for (at, (host, port)) in self.hosts.iter().enumerate() {
                let comma = if at > 0 { "," } else { "" };
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "{comma}{open}{host}{close}")?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
            }
        }
        f.write_str(&self.path)?;
        for (at, (key, value)) in self.keys.iter().enumerate() {
            let secret = ["password", "secret", "token"].iter().any(|word| key.ends_with(word));
            let value = if secret { SECRET } else { value };
            write!(f, "{}{key}={value}", if at == 0 { "?" } else { "&" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

#[cfg(test)]
mod tests;
