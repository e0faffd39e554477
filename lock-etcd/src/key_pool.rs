//! [`Slots`]: which keys of a lock this process has in use.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::Holder;

/// Which keys of each lock this process has in use.
///
/// A key is used again and again, as in etcd's own recipe: etcd remembers every key that ever was until it is compacted,
/// and looks at each of them in every transaction on their range. A key for each acquisition would make every lock
/// slower with every use.
#[derive(Debug)]
pub(crate) struct KeyPool {
    /// What the keys of this process are told by.
    id: u64,
    used: Mutex<HashMap<Vec<u8>, NumberPool>>,
}

/// The numbers of one lock.
#[derive(Debug, Default)]
struct NumberPool {
    /// All from here on are free.
    next: u32,
    /// Free ones before.
    free: BTreeSet<u32>,
}

/// A key that one claim of this process has for itself.
#[derive(Debug)]
pub(crate) struct PooledKey {
    pool: Arc<KeyPool>,
    range: Vec<u8>,
    number: u32,
    reusable: AtomicBool,
}

impl KeyPool {
    pub(crate) fn new() -> Arc<KeyPool> {
        // 63 random bits, as in the ids of etcd's leases, which other programs have in this place.
        let id = (Holder::fresh().as_u128() as u64) >> 1;
        Arc::new(KeyPool { id, used: Mutex::default() })
    }

    /// A key of the lock with this range that no other claim has.
    pub(crate) fn take(self: &Arc<Self>, range: &[u8]) -> Arc<PooledKey> {
        let mut used = self.locked();
        let number = used.entry(range.to_vec()).or_default().take();
        Arc::new(PooledKey { pool: self.clone(), range: range.to_vec(), number, reusable: AtomicBool::new(false) })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Vec<u8>, NumberPool>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NumberPool {
    fn take(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        })
    }
}

impl PooledKey {
    /// The key.
    pub(crate) fn key(&self) -> Vec<u8> {
        let id = self.pool.id;
        let own = if self.number == 0 { format!("{id:x}") } else { format!("{id:x}-{}", self.number) };
        [&self.range, own.as_bytes()].concat()
    }

    /// The key is certainly gone, and nothing that could bring it back is under way: when its claim is gone, another may
    /// have it. A key of which that is not known is never used again.
    pub(crate) fn set_reusable(&self, free: bool) {
        self.reusable.store(free, Ordering::Release);
    }
}

impl Drop for PooledKey {
    fn drop(&mut self) {
        if !self.reusable.load(Ordering::Acquire) {
            return;
        }
        let mut all = self.pool.locked();
        if let Some(used) = all.get_mut(&self.range) {
            used.free.insert(self.number);
            if used.free.len() == used.next as usize {
                all.remove(&self.range);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_used_again_only_when_it_is_certainly_gone() {
        let slots = KeyPool::new();
        let (first, second) = (slots.take(b"a/"), slots.take(b"a/"));
        let key = first.key();
        assert_ne!(key, second.key());
        first.set_reusable(true);
        drop(first);
        assert_eq!(slots.take(b"a/").key(), key, "used again, and given up in doubt");
        assert_ne!(slots.take(b"a/").key(), key);
        assert_ne!(slots.take(b"b/").key(), key);
    }
}
