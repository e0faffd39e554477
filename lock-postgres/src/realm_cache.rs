//! [`RealmCache`]: whose tokens these are.

use std::sync::{Mutex, PoisonError};

use lock_core::{FencingToken, Realm};

use crate::pool::Reply;

/// The realm of the data: what the table says, and the identifier of the database system, so that data which was copied
/// into another system is another realm by itself. It is read in the same step as each token.
#[derive(Debug)]
pub(crate) struct RealmCache(Mutex<Realm>);

impl RealmCache {
    pub(crate) fn new(realm: Realm) -> RealmCache {
        RealmCache(Mutex::new(realm))
    }

    /// The realm as it was read last.
    pub(crate) fn current(&self) -> Realm {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The realm of what was just read.
    pub(crate) fn update(&self, reply: &Reply, id: &str) -> Realm {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let realm_text = realm_text(&reply.system, id);
        if known.as_str() != realm_text {
            *known = Realm::new(realm_text);
        }
        known.clone()
    }

    /// This is the realm that was just read; the same as was known is given back as it is.
    pub(crate) fn adopt(&self, realm: Realm) -> Realm {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *known != realm {
            *known = realm;
        }
        known.clone()
    }

    /// A token that was just read.
    pub(crate) fn token(&self, reply: &Reply, id: &str, number: u64) -> FencingToken {
        FencingToken::new(self.update(reply, id), number)
    }
}

pub(crate) fn realm_text(system: &str, id: &str) -> String {
    match system {
        "" => format!("postgres:{id}"),
        system => format!("postgres:{system}-{id}"),
    }
}
