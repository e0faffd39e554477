//! [`StoreUrl`]: the address of a store and its settings, in one line.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;

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
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig); the text names the accepted keys.
    pub fn only_keys(&self, accepted: &[&str]) -> Result<()> {
        match self.keys.keys().find(|key| !accepted.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) if accepted.is_empty() => Err(Error::invalid_config(format!(
                "the key {key:?} is not accepted in a {}: URL; it takes no keys",
                self.scheme
            ))),
            Some(key) => Err(Error::invalid_config(format!(
                "the key {key:?} is not accepted in a {}: URL; its keys are {}",
                self.scheme,
                accepted.join(", ")
            ))),
        }
    }

    /// The value of a key as a time, such as `500ms`, `2s` or `1m 30s`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is not a time.
    pub fn duration(&self, key: &str) -> Result<Option<Duration>> {
        self.parse_value(key, "a time such as 500ms, 2s or 1m", |text| humantime::parse_duration(text).ok())
    }

    /// The value of a key as a number.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is not a number.
    pub fn number(&self, key: &str) -> Result<Option<u64>> {
        self.parse_value(key, "a whole number", |text| text.parse().ok())
    }

    /// The value of a key as a flag: `true` or `false`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is neither.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.parse_value(key, "true or false", |text| text.parse().ok())
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

    /// Refusal with the correct spelling, if this is a host and a port without a scheme.
    pub(crate) fn as_host_and_port(&self) -> Option<String> {
        let alone = self.hosts.is_empty() && self.keys.is_empty() && is_port(&self.path);
        alone.then(|| without_scheme(&format!("{}:{}", self.scheme, self.path)))
    }

    fn parse_value<T>(&self, key: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.value(key) else { return Ok(None) };
        parse(text)
            .map(Some)
            .ok_or_else(|| Error::invalid_config(format!("{key}={text} is not accepted: it takes {what}")))
    }
}

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<StoreUrl> {
        // The text may contain a password anywhere, so a refusal never shows more of it than the
        // scheme.
        let (scheme, rest) = text.split_once(':').ok_or_else(|| {
            Error::invalid_config("a store URL is scheme:path or scheme://host,host/path, and this one has no scheme")
        })?;
        if is_host(scheme) && is_port(rest) {
            return Err(Error::invalid_config(without_scheme(text)));
        }
        let named = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-".contains(c);
        if scheme.is_empty() || !scheme.chars().all(named) {
            return Err(Error::invalid_config(
                "the scheme of a store URL has lower-case letters, digits, + and - only",
            ));
        }
        let refuse = |why: &str| Error::invalid_config(format!("this {scheme}: URL is not accepted: {why}"));
        let decode = |text: &str| {
            percent_decode_str(text).decode_utf8().map(String::from).map_err(|_| refuse("it decodes to no UTF-8"))
        };

        let (place, keys) = rest.split_once('?').unwrap_or((rest, ""));
        let mut url = StoreUrl::new(scheme);
        let path = match place.strip_prefix("//") {
            None => place,
            Some(place) => {
                let (authority, path) = place.split_at(place.find('/').unwrap_or(place.len()));
                if !authority.is_empty() && (path.contains('@') || keys.contains('@')) {
                    return Err(refuse(
                        "an @ stands after the hosts; percent-encode it there as %40, and in a user or password / as %2F, \
                         ? as %3F and @ as %40",
                    ));
                }
                let (login, hosts) = match authority.rsplit_once('@') {
                    Some((login, hosts)) => (Some(login), hosts),
                    None => (None, authority),
                };
                if let Some(login) = login {
                    let (user, password) = match login.split_once(':') {
                        Some((user, password)) => (user, Some(decode(password)?)),
                        None => (login, None),
                    };
                    url = url.with_user(decode(user)?, password);
                }
                for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
                    let (host, port) = parse_host(host).map_err(refuse)?;
                    url = url.with_host(host, port);
                }
                path
            }
        };
        url.path = decode(path)?;
        for pair in keys.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| refuse("a key without a value: keys are key=value"))?;
            let key = decode(key)?;
            if url.keys.contains_key(&key) {
                return Err(refuse(&format!("the key {key:?} is given twice")));
            }
            url = url.with_key(key, decode(value)?);
        }
        Ok(url)
    }
}

/// True if this can only be a host, and not a scheme.
fn is_host(text: &str) -> bool {
    text.contains('.') && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-".contains(c))
}

fn is_port(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_digit())
}

/// Refusal of `host:port` without a scheme.
fn without_scheme(text: &str) -> String {
    format!(
        "{text} does not say which kind of store is there: write it as redis://{text} or etcd://{text}, for example"
    )
}

/// Parses a host with its port, if it has one. The refusal shows nothing of the text.
pub(crate) fn parse_host(text: &str) -> Result<(String, Option<u16>), &'static str> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("an IPv6 address lacks its ]")?;
            (host, port.strip_prefix(':').or_else(|| (!port.is_empty()).then_some("?")))
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    if host.is_empty() {
        return Err("a host is empty");
    }
    let port = port.map(|port| port.parse().map_err(|_| "a port is no number from 0 to 65535")).transpose()?;
    Ok((host.to_owned(), port))
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
mod tests {
    use super::*;
    use crate::words::ErrorKind;

    fn url(text: &str) -> StoreUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_url_without_hosts_has_a_path() {
        for (text, path) in [("sqlite:locks.db", "locks.db"), ("sqlite:/a/b%20c", "/a/b c"), ("sqlite:///a", "/a")] {
            assert_eq!(url(text).path(), path);
            assert!(url(text).hosts().is_empty());
        }
    }

    #[test]
    fn hosts_ports_login_and_keys_are_read() {
        let url = url("redis://me:p%40ss,w:rd@[::1]:7000,b/2?wait=1&ca=%2Fetc%2Fca.pem");
        assert_eq!((url.user(), url.password()), (Some("me"), Some("p@ss,w:rd")));
        assert_eq!(url.hosts(), [("::1".to_owned(), Some(7000)), ("b".to_owned(), None)]);
        assert_eq!((url.path(), url.value("ca")), ("/2", Some("/etc/ca.pem")));
        assert_eq!(url.number("wait").unwrap(), Some(1));
    }

    #[test]
    fn no_text_of_a_url_shows_a_secret() {
        let url = url("redis://me:hunter2@h?sentinel_password=hunter3&x=1");
        assert_eq!(url.to_string(), "redis://me:***@h?sentinel_password=***&x=1");
        assert!(!format!("{url:?}").contains("hunter"));
        assert_eq!("redis://hunter2@h".parse::<StoreUrl>().unwrap().to_string(), "redis://***@h");
    }

    #[test]
    fn a_password_that_was_not_encoded_is_never_shown() {
        for password in
            ["1234/S3CRET", "1234?S3CRET", "12?k=S3CRET", "1234/S3/CRET", "/S3CRET", "1/S3CRET@x", "1/a?b=S3CRET"]
        {
            for text in [format!("redis://odd:{password}@h"), format!("postgres://app:{password}@h:5432/db?x=1")] {
                let error = text.parse::<StoreUrl>().unwrap_err();
                let shown = format!("{error} {error:?}");
                assert!(
                    shown.contains("%2F") && !shown.contains("S3CRET") && !shown.contains("1234"),
                    "{text}: {error}"
                );
            }
        }
        // A character that is unambiguous is accepted as it is meant.
        for password in ["p@ss", "a#b", "a:b", "a,b", "a#b@c"] {
            let url = url(&format!("redis://odd:{password}@h/0"));
            assert_eq!((url.password(), url.path()), (Some(password), "/0"));
            assert!(!format!("{url} {url:?}").contains(password));
        }
        assert_eq!(url("sqlite:/home/me@here/x.db").path(), "/home/me@here/x.db");
        assert_eq!(url("redis://h/a%40b?k=%40").path(), "/a@b");
    }

    #[test]
    fn a_host_without_a_scheme_is_told_what_to_write() {
        for text in ["127.0.0.1:6379", "redis.example.com:6379"] {
            let error = text.parse::<StoreUrl>().unwrap_err().to_string();
            assert!(error.contains(&format!("redis://{text}")), "{error}");
        }
        // A word may be a scheme: only the registry knows the schemes.
        assert!(url("localhost:6379").as_host_and_port().unwrap().contains("redis://localhost:6379"));
        assert_eq!(url("sqlite:x6379").as_host_and_port(), None);
    }

    #[test]
    fn a_refusal_says_what_would_be_accepted_and_shows_no_secret() {
        for text in [
            "",
            "no scheme",
            "HTTP://x",
            "a://h:99999/",
            "a://:hunter2@/",
            "a://u:hunter2@h:port",
            "a:p?key",
            "a:p?k=1&k=2",
        ] {
            let refusal = text.parse::<StoreUrl>().map(|url| url.hosts().len());
            if let Err(error) = refusal {
                assert_eq!(error.kind(), ErrorKind::InvalidConfig);
                assert!(!error.to_string().contains("hunter2"), "{error}");
            } else {
                assert_eq!(text, "a://:hunter2@/", "{text:?} is accepted");
            }
        }
        let error = url("sqlite:x?tpyo=1").only_keys(&["busy", "prefix"]).unwrap_err();
        assert_eq!(error.to_string(), "the key \"tpyo\" is not accepted in a sqlite: URL; its keys are busy, prefix");
        let error = url("x:y?t=soon").duration("t").unwrap_err();
        assert!(error.to_string().contains("t=soon") && error.to_string().contains("500ms"), "{error}");
    }
}
