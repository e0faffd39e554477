//! [`Marks`]: the highest token of each name, and the realm that all of them belong to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, FencingToken, LockName, Realm, Result};

/// The highest token of each name, and the realm that all of them belong to.
#[derive(Clone, Default)]
pub(super) struct Marks {
    realm: Option<Realm>,
    numbers: BTreeMap<LockName, u64>,
}

/// One thing that a fence comes to know. Each says its realm: a mark of another realm begins that one.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Mark {
    realm: Realm,
    /// The name and number; none for a realm that was adopted and has no token yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<(LockName, u64)>,
}

impl Marks {
    /// What is to be remembered before this token is admitted; `None` if it is known already.
    pub(super) fn admit(&self, name: &LockName, token: &FencingToken) -> Result<Option<Mark>> {
        if let Some(realm) = self.realm.as_ref().filter(|realm| *realm != token.realm()) {
            let highest = match self.highest(name) {
                Some(highest) => format!("has seen {highest}"),
                None => format!("has the realm {realm}"),
            };
            return Err(Error::refused(
                ErrorKind::Fenced,
                format!(
                    "the fence refuses token {token} for {name:?}: it {highest}, and tokens of two realms do not \
                     compare; if the store was swapped or restored on purpose, adopt its realm (leasehold fence adopt)"
                ),
            ));
        }
        match self.numbers.get(name) {
            Some(highest) if *highest > token.number() => Err(Error::refused(
                ErrorKind::Fenced,
                format!(
                    "the fence refuses token {token} for {name:?}: it has seen {highest}, so a later holder was here; \
                     stop this work, and acquire the lock again to begin anew"
                ),
            )),
            Some(highest) if *highest == token.number() => Ok(None),
            _ => Ok(Some(Mark { realm: token.realm().clone(), seen: Some((name.clone(), token.number())) })),
        }
    }

    /// What is to be remembered before this realm is the one; `None` if it is already.
    pub(super) fn adopt(&self, realm: &Realm) -> Option<Mark> {
        (self.realm.as_ref() != Some(realm)).then(|| Mark { realm: realm.clone(), seen: None })
    }

    pub(super) fn apply(&mut self, mark: Mark) {
        if self.realm.as_ref() != Some(&mark.realm) {
            self.numbers.clear();
            self.realm = Some(mark.realm);
        }
        if let Some((name, number)) = mark.seen {
            let highest = self.numbers.entry(name).or_default();
            *highest = number.max(*highest);
        }
    }

    pub(super) fn realm(&self) -> Option<&Realm> {
        self.realm.as_ref()
    }

    pub(super) fn highest(&self, name: &LockName) -> Option<FencingToken> {
        Some(FencingToken::new(self.realm.clone()?, *self.numbers.get(name)?))
    }

    pub(super) fn list(&self) -> Vec<(LockName, FencingToken)> {
        let Some(realm) = &self.realm else { return Vec::new() };
        self.numbers.iter().map(|(name, number)| (name.clone(), FencingToken::new(realm.clone(), *number))).collect()
    }

    /// How many names it knows.
    pub(super) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The shortest list of marks that says all this.
    pub(super) fn marks(&self) -> impl Iterator<Item = Mark> {
        let realm = self.realm.iter();
        let adopted = realm.clone().filter(|_| self.numbers.is_empty());
        let adopted = adopted.map(|realm| Mark { realm: realm.clone(), seen: None });
        let seen = realm.flat_map(|realm| {
            self.numbers.iter().map(|(name, number)| Mark { realm: realm.clone(), seen: Some((name.clone(), *number)) })
        });
        adopted.chain(seen)
    }

    /// Whether these know at least what `earlier` knew, or another realm was adopted since.
    pub(super) fn follow(&self, earlier: &Marks) -> bool {
        earlier.realm.is_none()
            || (self.realm.is_some() && self.realm != earlier.realm)
            || earlier.numbers.iter().all(|(name, number)| self.numbers.get(name).is_some_and(|later| later >= number))
    }
}
