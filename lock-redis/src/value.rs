//! [`LockValue`]: the value at the key of a held lock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_core::kit::locked;
use lock_core::{Claim, FencingToken, HeldBy, Holder, HolderInfo, Realm};

/// The value at the key of a held lock: `<32 hexadecimal digits>.<token>[.<information>]`. One key
/// with one expiry answers a retry with the same token, and excludes clients that keep another text
/// at the same key.
#[derive(Debug, Default)]
pub(crate) struct LockValue {
    /// `None` for the value of another program, which has no token and no information for us.
    holder: Option<Holder>,
    token: u64,
    info: Option<HolderInfo>,
    revoked: bool,
}

/// The prefix of the values of a holder, with the dot after it.
pub(crate) fn holder_prefix(holder: Holder) -> String {
    let mut holder_prefix = String::from(holder);
    holder_prefix.push('.');
    holder_prefix
}

/// The suffix after the token: nothing, or a dot and the information.
pub(crate) fn info_suffix(info: &HolderInfo) -> String {
    if *info == HolderInfo::default() {
        return String::new();
    }
    // No error: the information is for people and decides nothing.
    serde_json::to_string(info).map(|json| format!(".{json}")).unwrap_or_default()
}

/// The last [`info_suffix`] that was made, since most locks of a process have the same.
#[derive(Debug, Default)]
pub(crate) struct InfoSuffixCache(Mutex<(HolderInfo, Arc<str>)>);

impl InfoSuffixCache {
    pub(crate) fn get(&self, info: &HolderInfo) -> Arc<str> {
        let mut last = locked(&self.0);
        if last.0 != *info {
            *last = (info.clone(), info_suffix(info).into());
        }
        last.1.clone()
    }
}

/// A flag as an argument of a script.
pub(crate) fn flag(yes: bool) -> &'static str {
    if yes { "1" } else { "0" }
}

/// A time in the server's unit; a shorter time is one unit.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 4)
}

/// Lifetime of the tombstone of a withdrawn request, in ms: longer than the lease that it withdraws
/// could last, and than a connection lives that does not answer.
pub(crate) fn tombstone_ttl_ms(claim: &Claim) -> u64 {
    const MARGIN: Duration = Duration::from_secs(60);
    millis(claim.ttl() + MARGIN)
}

impl LockValue {
    pub(crate) fn parse(bytes: &[u8]) -> LockValue {
        LockValue::try_parse(bytes).unwrap_or_default()
    }

    fn try_parse(bytes: &[u8]) -> Option<LockValue> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (holder, rest) = text.split_once('.')?;
        let (token, info) = match rest.split_once('.') {
            Some((token, info)) => (token, info),
            None => (rest, ""),
        };
        // An operator has revoked the lease: the value keeps its name blocked, without a holder.
        let (revoked, info) = match info.strip_prefix('!') {
            Some(info) => (true, info),
            None => (false, info),
        };
        Some(LockValue {
            holder: Some(holder.parse().ok()?),
            token: token.parse().ok().filter(|_| token.bytes().all(|byte| byte.is_ascii_digit()))?,
            info: serde_json::from_str(info).ok(),
            revoked,
        })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.holder.is_some()
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// The holder as the contract describes it.
    pub(crate) fn into_held_by(self, realm: &Realm, remaining: Option<Duration>) -> HeldBy {
        let mut by = HeldBy::default();
        by.holder = self.holder;
        by.token = self.holder.map(|_| FencingToken::new(realm.clone(), self.token));
        by.info = self.info;
        by.remaining = remaining;
        by.revoked = self.revoked;
        by
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_was_written_is_read() {
        let info = HolderInfo::new("h", 7, "a.b.!{}");
        let value = LockValue::parse(format!("{HOLDER}.18446744073709551615{}", info_suffix(&info)).as_bytes());
        assert_eq!(value.holder, Some(HOLDER.parse().unwrap()));
        assert_eq!((value.token, value.info, value.revoked), (u64::MAX, Some(info), false));
        let bare = LockValue::parse(format!("{HOLDER}.5{}", info_suffix(&HolderInfo::default())).as_bytes());
        assert_eq!((bare.token, bare.info, bare.revoked), (5, None, false));
        let revoked = LockValue::parse(format!("{HOLDER}.6.!").as_bytes());
        assert_eq!((revoked.token, revoked.revoked), (6, true));
    }

    #[test]
    fn each_information_has_its_own_ending() {
        let cache = InfoSuffixCache::default();
        let (one, other) = (HolderInfo::new("h", 7, "one"), HolderInfo::new("h", 7, "other"));
        for info in [&one, &one, &other, &HolderInfo::default(), &one] {
            assert_eq!(*cache.get(info), info_suffix(info));
        }
    }

    #[test]
    fn what_another_program_wrote_has_no_holder() {
        for text in ["", "1", HOLDER, "a.b", "0123456789abcdef0123456789abcdef.", "0123456789abcdef0123456789abcdef.+1"]
        {
            assert!(!LockValue::parse(text.as_bytes()).is_ours(), "{text}");
        }
        assert!(!LockValue::parse(&[0xff, b'.', 0xfe]).is_ours());
    }
}
