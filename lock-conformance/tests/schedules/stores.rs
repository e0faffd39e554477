//! [`Stores`]: the stores of a schedule.

use std::sync::Arc;

use lock_conformance::Random;
use lock_conformance::faults::{Faulty, Mix};
use lock_core::{LockStore, MemoryStore, Quorum};

use crate::chance::up_to;
use crate::{MAX_DELAY, TTL};

/// The stores of a schedule: one store, or the members of a quorum.
#[derive(Clone)]
pub(crate) struct Stores {
    members: Vec<MemoryStore>,
    /// Members lose their data at random moments.
    pub(crate) forgetful: bool,
}

impl Stores {
    pub(crate) fn one(store: MemoryStore) -> Stores {
        Stores { members: vec![store], forgetful: false }
    }

    pub(crate) fn quorum(members: usize) -> Stores {
        Stores { members: (0..members).map(|_| MemoryStore::new()).collect(), forgetful: false }
    }

    pub(crate) fn forgetful(self) -> Stores {
        Stores { forgetful: true, ..self }
    }

    /// Lets members lose their data, one after the other.
    pub(crate) async fn forget(self, mut random: Random) {
        for _ in 0..random.below(6) {
            tokio::time::sleep(up_to(&mut random, 3 * TTL)).await;
            self.members[random.below(self.members.len() as u64) as usize].forget();
        }
    }

    /// Opens the store of one client over faulty links of its own; returns the links too.
    pub(crate) async fn open_faulty(&self, random: &mut Random) -> (Arc<dyn LockStore>, Vec<Arc<Faulty>>) {
        let link = |store: &MemoryStore| {
            let mix = Mix::new(random.below(60), MAX_DELAY);
            Faulty::random(Arc::new(store.clone()), random.next_u64(), mix)
        };
        let links: Vec<_> = self.members.iter().map(link).collect();
        let stores = links.iter().map(|link| link.clone() as Arc<dyn LockStore>).collect();
        (Stores::open(stores).await, links)
    }

    pub(crate) async fn open_plain(&self) -> Arc<dyn LockStore> {
        Stores::open(self.members.iter().map(|store| Arc::new(store.clone()) as Arc<dyn LockStore>).collect()).await
    }

    /// Opens the store. A quorum is opened repeatedly: so many calls fail that too few members may
    /// answer.
    async fn open(mut stores: Vec<Arc<dyn LockStore>>) -> Arc<dyn LockStore> {
        if stores.len() == 1 {
            return stores.remove(0);
        }
        loop {
            match Quorum::open(stores.clone()).await {
                Ok(quorum) => return Arc::new(quorum.longest_ttl(TTL)),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    }
}
