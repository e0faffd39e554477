//! [`KeyPool`]: the keys of each lock that this process uses.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use lock_core::kit::locked;
use lock_core::random;

/// The keys of each lock that this process uses.
///
/// Keys are reused, as in etcd's own recipe. Etcd remembers every key that ever existed until it is
/// compacted, and visits each of them in every transaction on their range. A new key for each
/// acquisition would make every lock slower with every use.
#[derive(Debug)]
pub(crate) struct KeyPool {
    /// Random number in the keys of this process.
    id: u64,
    used: Mutex<HashMap<Vec<u8>, NumberPool>>,
}

/// The numbers in the keys of one lock.
#[derive(Debug, Default)]
struct NumberPool {
    /// This number and all greater ones are free.
    next: u32,
    /// Free numbers below `next`.
    free: BTreeSet<u32>,
}

/// A key that is reserved for one claim of this process.
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
        let id = (random::bits128() as u64) >> 1;
        Arc::new(KeyPool { id, used: Mutex::default() })
    }

    /// Takes a key in this range that no other claim has.
    pub(crate) fn take(self: &Arc<Self>, range: &[u8]) -> Arc<PooledKey> {
        let mut used = locked(&self.used);
        let number = used.entry(range.to_vec()).or_default().take();
        Arc::new(PooledKey { pool: self.clone(), range: range.to_vec(), number, reusable: AtomicBool::new(false) })
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

    /// Notes whether the key is certainly deleted, with no call in flight that could create it
    /// again. Only such a key is reused when its claim is gone.
    pub(crate) fn set_reusable(&self, reusable: bool) {
        self.reusable.store(reusable, Ordering::Release);
    }
}

impl Drop for PooledKey {
    fn drop(&mut self) {
        if !self.reusable.load(Ordering::Acquire) {
            return;
        }
        let mut all = locked(&self.pool.used);
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
