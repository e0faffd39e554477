//! Parsing of a [`StoreUrl`].

use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::StoreUrl;
use crate::words::{Error, Result};

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
        let refuse = |why: &str| refuse(scheme, why);
        let decode = |text: &str| decode(scheme, text);

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
                url = url.with_authority(authority)?;
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

impl StoreUrl {
    /// With the login and the hosts of `[user[:password]@][host[:port][,host…]]`.
    fn with_authority(mut self, authority: &str) -> Result<StoreUrl> {
        let hosts = match authority.rsplit_once('@') {
            None => authority,
            Some((login, hosts)) => {
                let (user, password) = match login.split_once(':') {
                    Some((user, password)) => (user, Some(decode(&self.scheme, password)?)),
                    None => (login, None),
                };
                let user = decode(&self.scheme, user)?;
                self = self.with_user(user, password);
                hosts
            }
        };
        for host in hosts.split(',').filter(|_| !hosts.is_empty()) {
            let (host, port) = parse_host(host).map_err(|why| refuse(&self.scheme, why))?;
            self = self.with_host(host, port);
        }
        Ok(self)
    }

    /// Refusal with the correct spelling, if this is a host and a port without a scheme.
    pub(crate) fn as_host_and_port(&self) -> Option<String> {
        let alone = self.hosts.is_empty() && self.keys.is_empty() && is_port(&self.path);
        alone.then(|| without_scheme(&format!("{}:{}", self.scheme, self.path)))
    }
}

/// The refusal of a URL, which may contain a password anywhere: it shows the scheme only.
fn refuse(scheme: &str, why: &str) -> Error {
    Error::invalid_config(format!("this {scheme}: URL is not accepted: {why}"))
}

fn decode(scheme: &str, text: &str) -> Result<String> {
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| refuse(scheme, "it decodes to no UTF-8"))?;
    Ok(decoded.into_owned())
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
