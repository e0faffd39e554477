//! [`Client`]: acquires, writes and releases at random.

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::Random;
use lock_conformance::history::ObservedLease;
use lock_core::{ErrorKind, FencingToken, LockGuard, Locks};

use crate::chance::{one_in, up_to};
use crate::world::World;
use crate::{CALL_TIMEOUT, TTL};

/// Number of acquires of one client.
const ROUNDS: u64 = 6;

/// A client that acquires, writes and releases at random, and acts on outdated views.
pub(crate) struct Client {
    pub(crate) world: Arc<World>,
    pub(crate) locks: Locks,
    pub(crate) random: Random,
}

impl Client {
    pub(crate) async fn run(mut self) {
        for _ in 0..ROUNDS {
            tokio::time::sleep(up_to(&mut self.random, TTL / 2)).await;
            let invoked = self.world.time();
            if let Some(guard) = self.acquire().await {
                self.hold(guard, invoked).await;
            }
        }
    }

    async fn acquire(&mut self) -> Option<LockGuard> {
        let mut lock = self.locks.lock("job").wait(up_to(&mut self.random, 2 * TTL));
        if one_in(&mut self.random, 2) {
            lock = lock.fixed();
        }
        let acquired = match self.random.below(3) {
            0 => lock.try_acquire().await.map(Some),
            1 => lock.acquire().await.map(|guard| Some(Some(guard))),
            // Dropped at any await point.
            _ => {
                let limit = up_to(&mut self.random, TTL);
                let acquired = tokio::time::timeout(limit, lock.acquire()).await;
                acquired.map_or(Ok(None), |acquired| acquired.map(|guard| Some(Some(guard))))
            }
        };
        match acquired {
            Ok(guard) => guard.flatten(),
            Err(error) => {
                let expected = [ErrorKind::Contended, ErrorKind::Unavailable, ErrorKind::TimedOut];
                assert!(expected.contains(&error.kind()), "{error:?}");
                None
            }
        }
    }

    async fn hold(&mut self, guard: LockGuard, invoked: Duration) {
        let world = self.world.clone();
        world.validities.lock().unwrap().push(guard.validity());
        world.assert_exclusive();
        let token = guard.token_if_any().unwrap().clone();
        let mut lease =
            ObservedLease { token: token.number(), invoked, returned: world.time(), ..ObservedLease::default() };
        for _ in 0..self.random.below(4) {
            world.observe(&guard, &mut lease);
            self.write(&guard, &token).await;
            if one_in(&mut self.random, 3) {
                let sent = world.time();
                if guard.renew().await.is_ok() {
                    lease.confirmed.push(sent);
                }
            }
        }
        world.observe(&guard, &mut lease);
        let released = world.time();
        match self.random.below(4) {
            0 => drop(guard),
            1 => drop(tokio::time::timeout(up_to(&mut self.random, CALL_TIMEOUT), guard.release()).await),
            2 => {
                if guard.release().await.is_ok() {
                    lease.confirmed.push(released);
                }
            }
            // It releases when it learns of the loss.
            _ => {
                let limit = up_to(&mut self.random, 3 * TTL);
                let _ = tokio::time::timeout(limit, guard.lost()).await;
                world.observe(&guard, &mut lease);
                lease.released = Some(world.time());
                drop(guard);
            }
        }
        lease.released = lease.released.or(Some(released));
        world.record(token.realm(), |history| history.leases.push(lease));
    }

    /// Updates the resource: checks the guard, reads, sometimes pauses for long, and writes.
    async fn write(&mut self, guard: &LockGuard, token: &FencingToken) {
        if !guard.is_valid() {
            return;
        }
        let (fenced, unfenced) = self.world.resource.lock().unwrap().read(token);
        let paused = one_in(&mut self.random, 3);
        tokio::time::sleep(up_to(&mut self.random, if paused { 3 * TTL } else { TTL / 20 })).await;
        // A paused process does not notice its pause, and writes.
        if !paused && !guard.is_valid() {
            return;
        }
        let mut resource = self.world.resource.lock().unwrap();
        resource.unfenced.write(unfenced + 1);
        if let Some(fenced) = fenced.filter(|_| resource.admit(token)) {
            resource.fenced.write(fenced + 1);
            self.world.record(token.realm(), |history| history.accepted.push(token.number()));
        }
    }
}
