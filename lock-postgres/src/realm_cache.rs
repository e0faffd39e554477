//! [`RealmCache`]: the realm of the data, as it was read last.

use std::sync::Mutex;

use lock_core::kit::locked;
use lock_core::{FencingToken, Realm};

use crate::pool::Reply;

/// The realm of the data, as it was read last: the identity in the table together with the
/// identifier of the database system, so that data which is copied into another system becomes
/// another realm by itself. It is read in the same statement as each token.
#[derive(Debug)]
pub(crate) struct RealmCache(Mutex<Realm>);

impl RealmCache {
    pub(crate) fn new(realm: Realm) -> RealmCache {
        RealmCache(Mutex::new(realm))
    }

    /// The realm as it was read last.
    pub(crate) fn current(&self) -> Realm {
        locked(&self.0).clone()
    }

    /// The realm of a row that was just read.
    pub(crate) fn update(&self, reply: &Reply, id: &str) -> Realm {
        let mut known = locked(&self.0);
        let realm_text = realm_text(&reply.system, id);
        if known.as_str() != realm_text {
            *known = Realm::new(realm_text);
        }
        known.clone()
    }

    /// Stores the realm that was just read. If it is the known one, that is returned, which shares
    /// its text.
    pub(crate) fn adopt(&self, realm: Realm) -> Realm {
        let mut known = locked(&self.0);
        if *known != realm {
            *known = realm;
        }
        known.clone()
    }

    /// The token of a row that was just read.
    pub(crate) fn token(&self, reply: &Reply, id: &str, number: u64) -> FencingToken {
        FencingToken::new(self.update(reply, id), number)
    }
}

/// The realm of this system identifier, if it is known, and this identity in the table.
pub(crate) fn realm_text(system: &str, id: &str) -> String {
    match system {
        "" => format!("postgres:{id}"),
        system => format!("postgres:{system}-{id}"),
    }
}
