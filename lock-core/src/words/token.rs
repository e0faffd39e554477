//! [`Realm`] and [`FencingToken`].

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The identity of a store's data; tokens compare only within one realm.
///
/// A store that is swapped, or restored from a backup, begins a new realm: the new numbers do not
/// compare with the old ones. A realm is text such as `sqlite:6f0c…`; it is no secret.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct Realm(Arc<str>);

impl Realm {
    /// The realm with this text: the store's kind, a colon and an identity of its data.
    pub fn new(text: impl AsRef<str>) -> Realm {
        Realm(text.as_ref().into())
    }

    /// A new realm of this kind, never used before: `kind:` and 32 random hexadecimal digits.
    pub fn fresh(kind: &str) -> Realm {
        Realm::new(format!("{kind}:{}", crate::words::random::hex128()))
    }

    /// The realm as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Realm {
    fn from(text: String) -> Realm {
        Realm::new(text)
    }
}

impl From<Realm> for String {
    fn from(realm: Realm) -> String {
        realm.as_str().to_owned()
    }
}

impl fmt::Display for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Realm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A number that is greater for every later acquisition of the same name, within one realm.
///
/// Send it with every write to the protected resource, and let a [`Fence`](crate::Fence) there
/// refuse a smaller one: so a holder that was paused past the end of its lease can do no harm. A
/// token is no secret and proves no identity.
///
/// Tokens of two realms do not compare: [`partial_cmp`](PartialOrd::partial_cmp) gives `None`, and
/// `<`, `>` are false.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FencingToken {
    realm: Realm,
    number: u64,
}

impl FencingToken {
    /// The token with this number in this realm.
    pub fn new(realm: Realm, number: u64) -> FencingToken {
        FencingToken { realm, number }
    }

    /// The realm that the token belongs to.
    pub fn realm(&self) -> &Realm {
        &self.realm
    }

    /// The number, comparable within one realm only.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl PartialOrd for FencingToken {
    fn partial_cmp(&self, other: &FencingToken) -> Option<Ordering> {
        (self.realm == other.realm).then(|| self.number.cmp(&other.number))
    }
}

impl fmt::Display for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.number, self.realm)
    }
}

impl fmt::Debug for FencingToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_one_realm_compare_by_number() {
        let realm = Realm::fresh("test");
        assert!(FencingToken::new(realm.clone(), 2) > FencingToken::new(realm, 1));
    }

    #[test]
    fn tokens_of_two_realms_do_not_compare() {
        let (a, b) = (FencingToken::new(Realm::new("a"), 1), FencingToken::new(Realm::new("b"), 2));
        assert_eq!(a.partial_cmp(&b), None);
        assert_ne!(a, b);
    }
}
