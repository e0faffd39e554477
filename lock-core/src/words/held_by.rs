//! [`HeldBy`]: the holder of a lock, as far as a store knows it.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::holder::{Holder, HolderInfo};
use super::share::Share;
use super::token::FencingToken;

/// The holder of a lock, as far as the store knows it. It was true when the store read it, and may
/// have changed since.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct HeldBy {
    /// The holder; `None` if the lock is held by another program that uses the same layout.
    pub holder: Option<Holder>,
    /// The holder's description of itself.
    pub info: Option<HolderInfo>,
    /// The part of the name that it holds.
    #[serde(default)]
    pub share: Share,
    /// The value that it shows, where it has published one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Vec<u8>>,
    /// Its fencing token, where the store issues one.
    pub token: Option<FencingToken>,
    /// Time for which it has held the lock.
    pub held_for: Option<Duration>,
    /// Time until its lease ends if it is not renewed.
    pub remaining: Option<Duration>,
    /// For a waiter in the store's queue: number of those ahead of it, including the holder.
    pub ahead: Option<u32>,
    /// The lease was revoked by an operator: nobody holds the lock, and it stays blocked while
    /// `remaining` lasts.
    pub revoked: bool,
}

impl HeldBy {
    /// Held by this holder; everything else is unknown.
    pub fn holder(holder: Holder) -> HeldBy {
        HeldBy { holder: Some(holder), ..HeldBy::default() }
    }
}

impl fmt::Display for HeldBy {
    /// One line for people, such as `build-7 pid 4711 (nightly) for 2m 5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.info, self.holder) {
            (Some(info), _) => write!(f, "{info}")?,
            (None, Some(holder)) => write!(f, "holder {holder}")?,
            (None, None) => f.write_str("an unknown holder")?,
        }
        if let Some(time) = self.held_for {
            write!(f, " for {}", short(time))?;
        }
        if self.revoked {
            f.write_str(", revoked")?;
        }
        if let Some(ahead) = self.ahead.filter(|ahead| *ahead > 1) {
            write!(f, ", {ahead} ahead")?;
        }
        Ok(())
    }
}

/// Whole seconds, or milliseconds below one second: more digits are only noise.
fn short(time: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(if time < Duration::from_secs(1) {
        Duration::from_millis(time.as_millis() as u64)
    } else {
        Duration::from_secs(time.as_secs())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_is_shown_as_people_know_it() {
        let mut by = HeldBy::holder(Holder::from_u128(1));
        assert_eq!(by.to_string(), "holder 00000000000000000000000000000001");
        by.info = Some(HolderInfo::new("build-7", 4711, "nightly"));
        by.held_for = Some(Duration::from_millis(125_900));
        assert_eq!(by.to_string(), "build-7 pid 4711 (nightly) for 2m 5s");
        by.ahead = Some(3);
        assert_eq!(by.to_string(), "build-7 pid 4711 (nightly) for 2m 5s, 3 ahead");
    }
}
