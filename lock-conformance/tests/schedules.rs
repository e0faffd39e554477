//! Random schedules over the memory store and over quorums of it, in paused time: clients whose calls are delayed, lost and repeated, who give
//! up at any moment, and who act on a view that has grown old.

#![allow(clippy::unwrap_used, reason = "a test says by its panic what went wrong")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lock_conformance::Random;
use lock_conformance::faults::{Faulty, Mix};
use lock_conformance::history::{History, ObservedLease};
use lock_core::{
    Attempt, Claim, Clock, ErrorKind, FencingToken, LockGuard, LockName, LockStore, Locks, MemoryStore, Moment, Quorum,
    Realm, Validity,
};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

const TTL: Duration = Duration::from_secs(1);
const CALL_TIMEOUT: Duration = Duration::from_millis(250);
const MAX_DELAY: Duration = Duration::from_millis(1500);
const CLIENTS: u64 = 4;
const ROUNDS: u64 = 6;
const CASES: u32 = 250;

/// What all clients share, and what is recorded of them.
struct World {
    clock: Clock,
    start: Moment,
    validities: Mutex<Vec<Validity>>,
    /// Tokens of two realms have no order: each has a history of its own.
    histories: Mutex<HashMap<Realm, History>>,
    resource: Mutex<Resource>,
}

/// A counter behind a fence, and the same counter without one.
#[derive(Default)]
struct Resource {
    highest: Option<FencingToken>,
    fenced: Counter,
    unfenced: Counter,
}

#[derive(Default)]
struct Counter {
    value: u64,
    writes: u64,
}

impl Resource {
    /// Reads both counters; the fence refuses a token that is smaller than one it has seen, or of another realm.
    fn read(&mut self, token: &FencingToken) -> (Option<u64>, u64) {
        (self.admit(token).then_some(self.fenced.value), self.unfenced.value)
    }

    fn admit(&mut self, token: &FencingToken) -> bool {
        let admitted = self.highest.as_ref().is_none_or(|highest| token >= highest);
        if admitted {
            self.highest = Some(token.clone());
        }
        admitted
    }
}

impl Counter {
    fn write(&mut self, value: u64) {
        self.value = value;
        self.writes += 1;
    }

    fn lost(&self) -> u64 {
        self.writes - self.value
    }
}

impl World {
    fn new() -> World {
        let clock = Clock::system();
        let start = clock.now();
        World { clock, start, validities: Mutex::default(), histories: Mutex::default(), resource: Mutex::default() }
    }

    fn time(&self) -> Duration {
        self.clock.now().since(self.start)
    }

    fn record(&self, realm: &Realm, record: impl FnOnce(&mut History)) {
        record(self.histories.lock().unwrap().entry(realm.clone()).or_default());
    }

    /// At this moment at most one guard is valid.
    fn assert_exclusive(&self) {
        let validities = self.validities.lock().unwrap();
        let valid: Vec<_> = validities.iter().filter(|validity| validity.is_valid()).collect();
        assert!(valid.len() <= 1, "at {:?} these are valid at once: {valid:?}", self.time());
    }
}

fn one_in(random: &mut Random, one_in: u64) -> bool {
    random.below(one_in) == 0
}

fn up_to(random: &mut Random, longest: Duration) -> Duration {
    Duration::from_micros(random.below(longest.as_micros() as u64))
}

struct Client {
    world: Arc<World>,
    locks: Locks,
    random: Random,
}

impl Client {
    async fn run(mut self) {
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
            // Dropped wherever it is.
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
        let mut heard =
            ObservedLease { token: token.number(), invoked, returned: world.time(), ..ObservedLease::default() };
        for _ in 0..self.random.below(4) {
            observe(&world, &guard, &mut heard);
            self.write(&guard, &token).await;
            if one_in(&mut self.random, 3) {
                let asked = world.time();
                if guard.renew().await.is_ok() {
                    heard.confirmed.push(asked);
                }
            }
        }
        observe(&world, &guard, &mut heard);
        let released = world.time();
        match self.random.below(4) {
            0 => drop(guard),
            1 => drop(tokio::time::timeout(up_to(&mut self.random, CALL_TIMEOUT), guard.release()).await),
            2 => {
                if guard.release().await.is_ok() {
                    heard.confirmed.push(released);
                }
            }
            // It stops when it is told.
            _ => {
                let limit = up_to(&mut self.random, 3 * TTL);
                let _ = tokio::time::timeout(limit, guard.lost()).await;
                observe(&world, &guard, &mut heard);
                heard.released = Some(world.time());
                drop(guard);
            }
        }
        heard.released = heard.released.or(Some(released));
        world.record(token.realm(), |history| history.leases.push(heard));
    }

    /// One change of the resource: looked, read, perhaps paused for long, written.
    async fn write(&mut self, guard: &LockGuard, token: &FencingToken) {
        if !guard.is_valid() {
            return;
        }
        let (fenced, unfenced) = self.world.resource.lock().unwrap().read(token);
        let paused = one_in(&mut self.random, 3);
        tokio::time::sleep(up_to(&mut self.random, if paused { 3 * TTL } else { TTL / 20 })).await;
        // A process that was paused does not know it, and writes.
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

/// Notes until when the lease lasts at least, and until when its holder believed in it.
fn observe(world: &World, guard: &LockGuard, heard: &mut ObservedLease) {
    world.assert_exclusive();
    let (now, remaining) = (world.time(), guard.remaining());
    if guard.is_valid() {
        heard.believed_until = heard.believed_until.max(now);
        // A fixed lease is given back at the end of its validity, which is a margin before the end of its TTL.
        heard.expires = heard.expires.max(now + remaining);
    }
}

/// The stores that a schedule runs over: one, or the members of a quorum.
#[derive(Clone)]
struct Stores {
    members: Vec<MemoryStore>,
    /// Whether members lose all that they know, at any moment.
    forgetful: bool,
}

impl Stores {
    fn one(store: MemoryStore) -> Stores {
        Stores { members: vec![store], forgetful: false }
    }

    fn quorum(members: usize) -> Stores {
        Stores { members: (0..members).map(|_| MemoryStore::new()).collect(), forgetful: false }
    }

    fn forgetful(self) -> Stores {
        Stores { forgetful: true, ..self }
    }

    /// Members lose what they know, one after the other.
    async fn forget(self, mut random: Random) {
        for _ in 0..random.below(6) {
            tokio::time::sleep(up_to(&mut random, 3 * TTL)).await;
            self.members[random.below(self.members.len() as u64) as usize].forget();
        }
    }

    /// What a client has of them behind links of its own, and the links.
    async fn open_faulty(&self, random: &mut Random) -> (Arc<dyn LockStore>, Vec<Arc<Faulty>>) {
        let link = |store: &MemoryStore| {
            let mix = Mix::new(random.below(60), MAX_DELAY);
            Faulty::random(Arc::new(store.clone()), random.next_u64(), mix)
        };
        let links: Vec<_> = self.members.iter().map(link).collect();
        let stores = links.iter().map(|link| link.clone() as Arc<dyn LockStore>).collect();
        (Stores::open(stores).await, links)
    }

    async fn open_plain(&self) -> Arc<dyn LockStore> {
        Stores::open(self.members.iter().map(|store| Arc::new(store.clone()) as Arc<dyn LockStore>).collect()).await
    }

    /// A quorum is opened as often as it takes: so many calls go wrong that too few members may answer.
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

/// One schedule; gives how many updates were lost without a fence.
async fn schedule(stores: Stores, seed: u64) -> u64 {
    let world = Arc::new(World::new());
    let mut random = Random::new(seed);
    let mut clients = tokio::task::JoinSet::new();
    let mut held = Vec::new();
    let mut links = Vec::new();
    for _ in 0..CLIENTS {
        let (store, faulty) = stores.open_faulty(&mut random).await;
        let locks = Locks::builder_of(store).ttl(TTL).call_timeout(CALL_TIMEOUT).build();
        // Beside it something is held for the whole time, so that a shared session goes on.
        held.push(locks.lock(format!("other/{}", links.len())).acquire().await.ok());
        links.push((faulty, locks.clone()));
        clients.spawn(Client { world: world.clone(), locks, random: Random::new(random.next_u64()) }.run());
    }
    let monitor = tokio::spawn({
        let world = world.clone();
        async move {
            loop {
                world.assert_exclusive();
                tokio::time::sleep(TTL / 97).await;
            }
        }
    });
    let forgetting = stores.forgetful.then(|| tokio::spawn(stores.clone().forget(Random::new(random.next_u64()))));
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
    if let Some(forgetting) = forgetting {
        forgetting.abort();
    }
    links.iter().flat_map(|(faulty, _)| faulty).for_each(|link| link.heal());
    // What is still under way is applied by then, and one TTL later it must be gone.
    tokio::time::sleep(MAX_DELAY + TTL + TTL / 20).await;
    let claim = Claim::new(LockName::new("job").unwrap(), TTL);
    let attempt = stores.open_plain().await.request(&claim).await.unwrap();
    assert!(matches!(attempt, Attempt::Granted(_)), "something was left behind: {attempt:?}");
    monitor.abort();
    assert!(!monitor.await.is_err_and(|error| error.is_panic()), "two guards were valid at once");
    world.histories.lock().unwrap().values().for_each(|history| history.check().unwrap());
    let resource = world.resource.lock().unwrap();
    assert_eq!(resource.fenced.lost(), 0, "updates were lost behind the fence");
    resource.unfenced.lost()
}

fn run_schedule(stores: Stores, seed: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(schedule(stores, seed))
}

fn check_schedules(stores: fn() -> Stores) {
    let lost = AtomicU64::new(0);
    let cases =
        std::env::var("LEASEHOLD_SCHEDULES").map_or(CASES, |n| n.parse().expect("LEASEHOLD_SCHEDULES is a number"));
    let config = ProptestConfig { cases, failure_persistence: None, max_shrink_iters: 0, ..Default::default() };
    // A failure says its seed; with it in LEASEHOLD_SEED that one schedule is repeated.
    let only = std::env::var("LEASEHOLD_SEED").ok().map(|seed| seed.parse().expect("LEASEHOLD_SEED is a number"));
    let seeds = only.map_or(any::<u64>().boxed(), |seed: u64| Just(seed).boxed());
    let run = TestRunner::new(config).run(&seeds, |seed| {
        lost.fetch_add(run_schedule(stores(), seed), Ordering::Relaxed);
        Ok(())
    });
    if let Err(failure) = run {
        panic!("{failure}");
    }
    let lost = lost.into_inner();
    println!("no violation in {cases} schedules; {lost} updates lost without a fence");
    // The harness itself: pauses that never do harm would prove nothing.
    assert!(lost > 0 || only.is_some(), "without a fence no update was lost");
}

#[test]
fn leases_with_a_ttl_of_their_own_stay_lawful() {
    check_schedules(|| Stores::one(MemoryStore::new()));
}

#[test]
fn leases_on_sessions_stay_lawful() {
    check_schedules(|| Stores::one(MemoryStore::with_sessions(Clock::system())));
}

#[test]
fn leases_of_a_quorum_stay_lawful() {
    check_schedules(|| Stores::quorum(3));
}

#[test]
fn leases_of_a_quorum_whose_members_forget_stay_lawful() {
    check_schedules(|| Stores::quorum(3).forgetful());
}

#[test]
fn schedules_that_once_failed_stay_lawful() {
    let sessions = || Stores::one(MemoryStore::with_sessions(Clock::system()));
    // A lease was moved to another session than the one its holder believed by.
    for seed in [1_500_203_307_265_195_755, 15_468_278_663_270_634_671] {
        run_schedule(sessions(), seed);
    }
    // A release that came twice took a vote of the same holder's next attempt.
    for seed in [263_482_651_582_979_545, 2_418_416_672_431_013_704] {
        run_schedule(Stores::quorum(3), seed);
    }
    for seed in [13_214_049_733_422_684_750, 11_888_731_574_986_417_156] {
        run_schedule(Stores::quorum(3).forgetful(), seed);
    }
}
