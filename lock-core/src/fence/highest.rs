//! [`HighestTokens`]: the highest token of each name, for each realm, and the realm whose tokens
//! are admitted.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::words::{Error, ErrorKind, FencingToken, LockName, Realm, Result};

/// The highest token of each name, for each realm, and the realm whose tokens are admitted.
#[derive(Clone, Default)]
pub(super) struct HighestTokens {
    realm: Option<Realm>,
    numbers: HashMap<Realm, Numbers>,
}

/// The highest number of each name in one realm.
type Numbers = BTreeMap<LockName, u64>;

/// One change of a fence. Each record has a realm: tokens of the last record's realm are admitted.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    realm: Realm,
    /// The name and number; `None` for a realm that was adopted and has no token yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<(LockName, u64)>,
}

impl HighestTokens {
    /// The record to store before this token is admitted; `None` if the token is already known.
    pub(super) fn admit(&self, name: &LockName, token: &FencingToken) -> Result<Option<Record>> {
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
        match self.highest_number(name) {
            Some(highest) if highest > token.number() => Err(Error::refused(
                ErrorKind::Fenced,
                format!(
                    "the fence refuses token {token} for {name:?}: it has seen {highest}, so a later holder was here; \
                     stop this work, and acquire the lock again to begin anew"
                ),
            )),
            Some(highest) if highest == token.number() => Ok(None),
            _ => Ok(Some(Record { realm: token.realm().clone(), seen: Some((name.clone(), token.number())) })),
        }
    }

    /// The record to store before this realm is adopted; `None` if it already is the fence's realm.
    pub(super) fn adopt(&self, realm: &Realm) -> Option<Record> {
        (self.realm.as_ref() != Some(realm)).then(|| Record { realm: realm.clone(), seen: None })
    }

    pub(super) fn apply(&mut self, record: Record) {
        if self.realm.as_ref() != Some(&record.realm) {
            self.realm = Some(record.realm.clone());
        }
        if let Some((name, number)) = record.seen {
            let highest = self.numbers.entry(record.realm).or_default().entry(name).or_default();
            *highest = number.max(*highest);
        }
    }

    pub(super) fn realm(&self) -> Option<&Realm> {
        self.realm.as_ref()
    }

    pub(super) fn highest(&self, name: &LockName) -> Option<FencingToken> {
        Some(FencingToken::new(self.realm.clone()?, self.highest_number(name)?))
    }

    pub(super) fn list(&self) -> Vec<(LockName, FencingToken)> {
        let Some((realm, numbers)) = self.admitted() else { return Vec::new() };
        numbers.iter().map(|(name, number)| (name.clone(), FencingToken::new(realm.clone(), *number))).collect()
    }

    fn highest_number(&self, name: &LockName) -> Option<u64> {
        self.admitted()?.1.get(name).copied()
    }

    /// The realm whose tokens are admitted, with its numbers, if it has any.
    fn admitted(&self) -> Option<(&Realm, &Numbers)> {
        self.numbers.get_key_value(self.realm.as_ref()?)
    }

    /// Number of names in all realms.
    pub(super) fn len(&self) -> usize {
        self.numbers.values().map(BTreeMap::len).sum()
    }

    /// The shortest list of records with this content. The realm whose tokens are admitted comes
    /// last.
    pub(super) fn records(&self) -> impl Iterator<Item = Record> {
        let admitted = self.realm.as_ref();
        let earlier = self.numbers.keys().filter(move |realm| Some(*realm) != admitted);
        let seen = earlier.chain(admitted).flat_map(|realm| {
            let numbers = self.numbers.get(realm).into_iter().flatten();
            numbers.map(|(name, number)| Record { realm: realm.clone(), seen: Some((name.clone(), *number)) })
        });
        let adopted = admitted.filter(|realm| !self.numbers.contains_key(realm));
        seen.chain(adopted.map(|realm| Record { realm: realm.clone(), seen: None }))
    }

    /// True if these tokens include at least all that `earlier` has.
    pub(super) fn follow(&self, earlier: &HighestTokens) -> bool {
        let knows = |realm: &Realm, name: &LockName, number: u64| {
            self.numbers.get(realm).and_then(|numbers| numbers.get(name)).is_some_and(|later| *later >= number)
        };
        (earlier.realm.is_none() || self.realm.is_some())
            && earlier
                .numbers
                .iter()
                .all(|(realm, numbers)| numbers.iter().all(|(name, number)| knows(realm, name, *number)))
    }
}
