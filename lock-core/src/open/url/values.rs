//! Reading hosts, login, times, numbers and flags from a [`StoreUrl`].

use std::ops::RangeInclusive;
use std::time::Duration;

use super::StoreUrl;
use crate::kit::duration::check_duration;
use crate::words::{Error, Result};

impl StoreUrl {
    /// The hosts, each with its port or else the default one.
    pub fn endpoints(&self, default_port: u16) -> Vec<(String, u16)> {
        self.hosts.iter().map(|(host, port)| (host.clone(), port.unwrap_or(default_port))).collect()
    }

    /// User and password for a store that takes both or neither. The user may be empty, as in
    /// `redis://:password@host`.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) for a user without a password.
    pub fn login(&self) -> Result<Option<(String, String)>> {
        match (&self.user, &self.password) {
            (None, _) => Ok(None),
            (Some(user), Some(password)) => Ok(Some((user.clone(), password.clone()))),
            (Some(user), None) if user.is_empty() => Ok(None),
            (Some(_), None) => Err(Error::invalid_config(format!(
                "{self} is not accepted: a user needs a password, as in user:password@host"
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

    /// The value of a key as a time in this range.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if it is not a time, or out of the range.
    pub fn duration_in(&self, key: &str, range: &RangeInclusive<Duration>) -> Result<Option<Duration>> {
        let value = self.duration(key)?;
        value.map_or(Ok(()), |value| check_duration(key, value, range))?;
        Ok(value)
    }

    fn parse_value<T>(&self, key: &str, what: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<Option<T>> {
        let Some(text) = self.value(key) else { return Ok(None) };
        parse(text)
            .map(Some)
            .ok_or_else(|| Error::invalid_config(format!("{key}={text} is not accepted: it takes {what}")))
    }
}
