//! A quorum whose members fail, hang, split their votes, forget and come back.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall panic")]

mod diagnosis;
mod places;
mod promising;

use std::sync::Arc;
use std::time::Duration;

use lock_conformance::faults::{Call, Disturbance, Faulty};
use lock_core::*;

use crate::promising::Promising;

const SECOND: Duration = Duration::from_secs(1);
/// Time-out of one call to one member.
const LIMIT: Duration = Duration::from_millis(100);

/// A quorum in paused time, with its members and their faults.
struct Fixture {
    clock: Clock,
    memory: Vec<MemoryStore>,
    faulty: Vec<Arc<Faulty>>,
    quorum: Arc<Quorum>,
}

async fn quorum(members: &[Arc<Faulty>]) -> Arc<Quorum> {
    let members = members.iter().map(|member| member.clone() as Arc<dyn LockStore>);
    Arc::new(Quorum::open(members).await.unwrap().member_timeout(LIMIT))
}

impl Fixture {
    async fn of(members: usize) -> Fixture {
        let (clock, _) = Clock::for_tests();
        let memory: Vec<_> = (0..members).map(|_| MemoryStore::with_clock(clock.clone())).collect();
        let faulty: Vec<_> = memory.iter().map(|store| Faulty::new(Arc::new(store.clone()))).collect();
        let quorum = quorum(&faulty).await;
        Fixture { clock, memory, faulty, quorum }
    }

    /// Another process's handle, without faults.
    async fn other(&self) -> Arc<Quorum> {
        let members = self.memory.iter().map(|store| Arc::new(store.clone()) as Arc<dyn LockStore>);
        Arc::new(Quorum::open(members).await.unwrap())
    }

    fn always(&self, members: impl IntoIterator<Item = usize>, ops: &[Call], step: Disturbance) {
        for member in members {
            ops.iter().for_each(|op| self.faulty[member].always(*op, step));
        }
    }

    fn heal(&self) {
        self.faulty.iter().for_each(|member| member.heal());
    }

    fn locks(&self) -> Locks {
        Locks::builder_of(self.quorum.clone()).clock(self.clock.clone()).ttl(10 * SECOND).build()
    }

    /// Number of members at which the lock is held.
    async fn held_at(&self, name: &LockName) -> usize {
        let mut held = 0;
        for store in &self.memory {
            held += usize::from(store.inspect(name, Space::Locks).await.unwrap().pop().is_some());
        }
        held
    }
}

const ALL: &[Call] = &[Call::Request, Call::Renew, Call::Release, Call::Raise];

fn job() -> LockName {
    LockName::new("job").unwrap()
}

fn claim() -> Claim {
    Claim::new(job(), 10 * SECOND)
}

async fn granted(store: &dyn LockStore, claim: &Claim) -> Lease {
    match store.request(claim).await.unwrap() {
        Attempt::Granted(lease) => lease,
        Attempt::Held(held) => panic!("held by {}", held.by),
    }
}

fn number(lease: &Lease) -> u64 {
    lease.token.as_ref().unwrap().number()
}

async fn refusal(members: Vec<Arc<dyn LockStore>>) -> Error {
    Quorum::open(members).await.unwrap_err()
}

#[tokio::test(start_paused = true)]
async fn a_minority_that_fails_or_hangs_is_not_missed() {
    for (members, down) in [(3, 1), (4, 1), (5, 2)] {
        for step in [Disturbance::Fail, Disturbance::FailApplied, Disturbance::LoseReply, Disturbance::Hang] {
            let fixture = Fixture::of(members).await;
            fixture.always(0..down, ALL, step);
            let guard = fixture.locks().lock("job").wait(SECOND).acquire().await.unwrap();
            guard.renew().await.unwrap();
            assert!(
                fixture
                    .other()
                    .await
                    .inspect(&job(), Space::Locks)
                    .await
                    .unwrap()
                    .pop()
                    .is_some_and(|by| by.holder == Some(guard.holder()))
            );
            guard.release().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_nothing_is_granted_and_all_is_given_back() {
    for (members, down) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        for step in [Disturbance::Fail, Disturbance::FailApplied, Disturbance::LoseReply, Disturbance::Hang] {
            let fixture = Fixture::of(members).await;
            fixture.always(0..down, &[Call::Request], step);
            let error = fixture.quorum.request(&claim()).await.unwrap_err();
            assert!(error.is_retryable(), "{members} members, {down} {step:?}: {error:?}");
            // Releases at members that do not answer are in flight.
            tokio::time::sleep(3 * LIMIT).await;
            assert_eq!(fixture.held_at(&job()).await, 0, "{members} members, {down} {step:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_slow_last_member_is_not_waited_for() {
    let fixture = Fixture::of(3).await;
    fixture.always([2], ALL, Disturbance::DelayBoth(LIMIT / 3));
    let started = tokio::time::Instant::now();
    let claim = claim();
    granted(&*fixture.quorum, &claim).await;
    assert_eq!(fixture.quorum.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    assert_eq!(started.elapsed(), Duration::ZERO);
    // The slow member was asked as well, and its grant was given back.
    tokio::time::sleep(4 * LIMIT).await;
    assert_eq!(fixture.held_at(&job()).await, 0);
    assert_eq!((fixture.faulty[2].calls(Call::Request), fixture.faulty[2].calls(Call::Release)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_slow_member_that_a_ballot_did_not_wait_for_has_its_vote_in_the_next() {
    let fixture = Fixture::of(5).await;
    let (first, next, other) = (claim(), claim(), fixture.other().await);
    granted(&*other, &first).await;
    fixture.always(3..5, &[Call::Request], Disturbance::DelayReply(LIMIT / 3));
    assert!(matches!(fixture.quorum.request(&next).await, Ok(Attempt::Held(_))), "three of five decide");
    assert_eq!(other.release(&first, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    fixture.always(0..2, &[Call::Request], Disturbance::Fail);
    granted(&*fixture.quorum, &next).await;
}

#[tokio::test(start_paused = true)]
async fn all_members_are_asked_at_once() {
    let fixture = Fixture::of(5).await;
    fixture.always(0..5, &[Call::Request], Disturbance::Delay(LIMIT / 2));
    let started = tokio::time::Instant::now();
    granted(&*fixture.quorum, &claim()).await;
    assert!(started.elapsed() < LIMIT, "five calls of {:?} took {:?}", LIMIT / 2, started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_minority_win_is_given_back_and_does_not_vote_against_its_own_retry() {
    let fixture = Fixture::of(3).await;
    let (ours, theirs) = (claim(), claim());
    // Another holder has two members, so that we win the third.
    for store in &fixture.memory[..2] {
        granted(store, &theirs).await;
    }
    let Attempt::Held(held) = fixture.quorum.request(&ours).await.unwrap() else { panic!("a minority was enough") };
    assert_eq!(held.by.holder, Some(theirs.holder()));
    assert!(held.retry_after <= SECOND, "it would look again after {:?}", held.retry_after);
    // Two refusals decided, perhaps before the third member had answered.
    tokio::time::sleep(LIMIT).await;
    assert!(fixture.memory[2].inspect(&job(), Space::Locks).await.unwrap().is_empty(), "the minority win was kept");
    for store in &fixture.memory[..2] {
        store.release(&theirs, Duration::ZERO).await.unwrap();
    }
    granted(&*fixture.quorum, &ours).await;
    assert_eq!(fixture.held_at(&job()).await, 3);
}

#[tokio::test(start_paused = true)]
async fn votes_that_are_split_are_all_given_back_and_asked_for_again() {
    let fixture = Fixture::of(4).await;
    let theirs = claim();
    for store in &fixture.memory[..2] {
        granted(store, &theirs).await;
    }
    // Two of four are no majority for either holder.
    assert!(matches!(fixture.quorum.request(&claim()).await.unwrap(), Attempt::Held(_)));
    tokio::time::sleep(LIMIT).await;
    assert_eq!(fixture.held_at(&job()).await, 2);
    assert!(
        fixture.quorum.inspect(&job(), Space::Locks).await.unwrap().is_empty(),
        "half of the members is shown as a holder"
    );
}

#[tokio::test(start_paused = true)]
async fn waiters_look_again_after_random_times() {
    let fixture = Fixture::of(3).await;
    granted(&*fixture.quorum, &claim()).await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let Attempt::Held(held) = fixture.quorum.request(&claim()).await.unwrap() else { panic!("granted twice") };
        times.push(held.retry_after);
    }
    times.sort_unstable();
    times.dedup();
    assert!(times.len() > 5, "of twenty, these times differ: {times:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_lasts_as_long_as_the_shortest_of_its_majority() {
    let fixture = Fixture::of(3).await;
    let claim = claim();
    let lease = granted(&*fixture.quorum, &claim).await;
    assert_eq!(lease.ttl, claim.ttl());
    // The core counts the validity from before the first request: the time of the second phase is
    // part of it.
    fixture.always(0..3, &[Call::Raise], Disturbance::Delay(LIMIT / 2));
    let guard = fixture.locks().lock("other").fixed().acquire().await.unwrap();
    assert!(guard.remaining() <= 10 * SECOND - LIMIT / 2, "{:?} remain", guard.remaining());
}

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_only_by_a_majority() {
    for (down, lost) in [(1, false), (2, true)] {
        let fixture = Fixture::of(3).await;
        let guard = fixture.locks().lock("job").acquire().await.unwrap();
        fixture.always(0..down, &[Call::Renew], Disturbance::Fail);
        tokio::time::sleep(25 * SECOND).await;
        assert_eq!(guard.check().err(), lost.then_some(LossReason::Expired), "{down} members do not renew");
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_a_majority_no_longer_has_is_lost_at_once() {
    let fixture = Fixture::of(3).await;
    let guard = fixture.locks().lock("job").acquire().await.unwrap();
    fixture.memory[0].forget();
    guard.renew().await.unwrap();
    fixture.memory[1].forget();
    assert_eq!(guard.renew().await.unwrap_err().loss(), Some(LossReason::NotHeld));
}

#[tokio::test(start_paused = true)]
async fn a_member_that_was_restarted_has_no_vote_for_the_longest_ttl() {
    let fixture = Fixture::of(3).await;
    let holder = claim();
    granted(&*fixture.quorum, &holder).await;
    tokio::time::sleep(LIMIT).await;
    // One of the two that decided is restarted and forgets; the third never granted.
    fixture.memory[2].release(&holder, Duration::ZERO).await.unwrap();
    fixture.memory[1].forget();
    let other = fixture.other().await;
    assert!(matches!(other.request(&claim()).await.unwrap(), Attempt::Held(_)), "a member that forgot had a vote");
    tokio::time::sleep(LIMIT).await;
    assert_eq!(fixture.held_at(&job()).await, 1, "what the voteless member granted was not given back");
    fixture.quorum.release(&holder, Duration::ZERO).await.unwrap();
    // The members that remember everything are a majority.
    granted(&*other, &claim()).await;
    // With another member down the restarted one is needed, and it has to wait.
    let fixture = Fixture::of(3).await;
    fixture.memory[1].forget();
    fixture.always([0], ALL, Disturbance::Fail);
    let error = fixture.quorum.request(&claim()).await.unwrap_err();
    assert!(error.to_string().contains("member 2 has no vote: it was restarted"), "{error}");
    tokio::time::sleep(Quorum::DEFAULT_LONGEST_TTL).await;
    granted(&*fixture.quorum, &claim()).await;
}

#[tokio::test(start_paused = true)]
async fn a_ttl_beyond_the_longest_is_refused() {
    let fixture = Fixture::of(3).await;
    let long = Claim::new(job(), Quorum::DEFAULT_LONGEST_TTL + SECOND);
    assert_eq!(fixture.quorum.request(&long).await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    assert_eq!(fixture.held_at(&job()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_the_greatest_of_the_majority_and_a_majority_has_it() {
    let fixture = Fixture::of(3).await;
    for _ in 0..7 {
        let other = Claim::new(LockName::new("other").unwrap(), SECOND);
        granted(&fixture.memory[1], &other).await;
        fixture.memory[1].release(&other, Duration::ZERO).await.unwrap();
    }
    fixture.always([2], ALL, Disturbance::Hang);
    let lease = granted(&*fixture.quorum, &claim()).await;
    assert_eq!(number(&lease), 8);
    for store in &fixture.memory[..2] {
        assert_eq!(store.inspect(&job(), Space::Locks).await.unwrap().pop().unwrap().token.unwrap().number(), 8);
    }
    assert_eq!(lease.token.unwrap().realm(), &fixture.quorum.realm());
}

#[tokio::test(start_paused = true)]
async fn tokens_rise_whichever_members_decide() {
    let fixture = Fixture::of(5).await;
    let mut last = 0;
    for round in 0..40_usize {
        fixture.heal();
        // Two other members are missing in each round.
        fixture.always([round % 5, (round * 3 + 1) % 5], ALL, Disturbance::Fail);
        let claim = claim();
        let lease = granted(&*fixture.quorum, &claim).await;
        assert!(number(&lease) > last, "round {round}: {} after {last}", number(&lease));
        last = number(&lease);
        fixture.heal();
        fixture.quorum.release(&claim, Duration::ZERO).await.unwrap();
        tokio::time::sleep(LIMIT).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_token_is_given_out_that_a_majority_did_not_acknowledge() {
    for step in [Disturbance::Fail, Disturbance::Hang, Disturbance::LoseReply] {
        let fixture = Fixture::of(3).await;
        fixture.always(0..2, &[Call::Raise], step);
        assert!(fixture.quorum.request(&claim()).await.is_err(), "{step:?}");
        assert_eq!(fixture.held_at(&job()).await, 0, "{step:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn asking_again_gives_the_same_token_as_long_as_nobody_came_between() {
    let fixture = Fixture::of(3).await;
    let ours = claim();
    fixture.always([2], ALL, Disturbance::Hang);
    let first = number(&granted(&*fixture.quorum, &ours).await);
    tokio::time::sleep(3 * LIMIT).await;
    fixture.heal();
    // The third member's counter has advanced meanwhile.
    for _ in 0..5 {
        let other = claim();
        granted(&fixture.memory[2], &other).await;
        fixture.memory[2].release(&other, Duration::ZERO).await.unwrap();
    }
    for _ in 0..3 {
        assert_eq!(number(&granted(&*fixture.quorum, &ours).await), first);
        tokio::time::sleep(LIMIT).await;
    }
    // Two members lose the lease early and grant the lock to another holder, which gives it back.
    let (other, theirs) = (fixture.other().await, claim());
    for store in &fixture.memory {
        store.release(&ours, Duration::ZERO).await.unwrap();
    }
    let between = number(&granted(&*other, &theirs).await);
    other.release(&theirs, Duration::ZERO).await.unwrap();
    tokio::time::sleep(LIMIT).await;
    assert!(number(&granted(&*fixture.quorum, &ours).await) > between);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_may_still_be_applied_spends_the_claim() {
    let fixture = Fixture::of(3).await;
    let theirs = claim();
    granted(&fixture.memory[0], &theirs).await;
    granted(&fixture.memory[1], &theirs).await;
    // The release of our minority win is cut off, and applied much later.
    fixture.faulty[2].script(Call::Release, [Disturbance::ApplyLate(5 * SECOND)]);
    let ours = claim();
    assert!(matches!(fixture.quorum.request(&ours).await.unwrap(), Attempt::Held(_)));
    tokio::time::sleep(LIMIT).await;
    assert!(ours.is_retired());
    fixture.memory[0].release(&theirs, Duration::ZERO).await.unwrap();
    fixture.memory[1].release(&theirs, Duration::ZERO).await.unwrap();
    granted(&*fixture.quorum, &ours).await;
    // The member of that release has no vote for this claim: without another member, the claim
    // holds nothing.
    fixture.memory[0].forget();
    let batch = RenewalBatch::new(&fixture.clock, [ours.clone()]);
    _ = fixture.quorum.renew(&batch).await;
    assert_eq!(batch.iter().next().unwrap().outcome(), None);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_claim_was_spent_asks_as_another_holder() {
    let fixture = Fixture::of(3).await;
    let theirs = claim();
    granted(&fixture.memory[0], &theirs).await;
    granted(&fixture.memory[1], &theirs).await;
    fixture.faulty[2].script(Call::Release, [Disturbance::ApplyLate(SECOND / 2)]);
    let acquire = tokio::spawn(fixture.locks().lock("job").wait(20 * SECOND).acquire());
    while fixture.faulty[2].calls(Call::Release) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let spent = fixture.memory[2].inspect(&job(), Space::Locks).await.unwrap().pop().and_then(|by| by.holder);
    assert!(spent.is_some(), "the release was not cut off");
    fixture.memory[0].release(&theirs, Duration::ZERO).await.unwrap();
    fixture.memory[1].release(&theirs, Duration::ZERO).await.unwrap();
    let guard = acquire.await.unwrap().unwrap();
    assert_ne!(Some(guard.holder()), spent);
    tokio::time::sleep(20 * SECOND).await;
    guard.check().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_release_that_comes_a_second_time_takes_no_later_vote() {
    let fixture = Fixture::of(3).await;
    let theirs = claim();
    granted(&fixture.memory[0], &theirs).await;
    granted(&fixture.memory[1], &theirs).await;
    fixture.faulty[2].script(Call::Release, [Disturbance::ApplyTwice(SECOND)]);
    let acquire = tokio::spawn(fixture.locks().lock("job").wait(20 * SECOND).acquire());
    while fixture.faulty[2].calls(Call::Release) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    fixture.memory[0].release(&theirs, Duration::ZERO).await.unwrap();
    fixture.memory[1].release(&theirs, Duration::ZERO).await.unwrap();
    let guard = acquire.await.unwrap().unwrap();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(fixture.held_at(&job()).await, 3, "a vote for {:?} was taken", guard.name());
}

#[tokio::test]
async fn members_must_be_different_and_have_leases_of_their_own() {
    let memory = || Arc::new(MemoryStore::new()) as Arc<dyn LockStore>;
    let (one, two) = (memory(), memory());
    for (members, says) in [
        (vec![], "needs members"),
        (vec![one.clone(), two.clone(), one.clone()], "the same store"),
        (vec![one, two, Arc::new(MemoryStore::with_sessions(Clock::system()))], "TTL of their own"),
    ] {
        let error = refusal(members).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[tokio::test]
async fn the_realm_is_that_of_the_members_in_any_order() {
    let stores: Vec<_> = (0..3).map(|_| MemoryStore::new()).collect();
    let quorum = |order: [usize; 3]| {
        let members = order.map(|at| Arc::new(stores[at].clone()) as Arc<dyn LockStore>);
        async move { Quorum::open(members).await.unwrap() }
    };
    let realm = quorum([0, 1, 2]).await.realm();
    assert_eq!(quorum([2, 0, 1]).await.realm(), realm);
    assert!(realm.as_str().starts_with("quorum:"), "{realm}");
    stores[1].forget();
    assert_ne!(quorum([0, 1, 2]).await.realm(), realm, "a member lost its data, and the realm stays");
}

#[tokio::test]
async fn a_quorum_promises_what_every_member_does_and_the_loss_of_a_minority() {
    let crash = Faults::from(Fault::Crash);
    let durable = crash | Fault::PowerLoss.into();
    let ttl = |clock| Guarantees::NONE.expiry(Expiry::Ttl(clock));
    let strong = ttl(ClockKind::BootTime).records_survive(durable).tokens_survive(durable).waiting(WaitStyle::Queued);
    let weak = ttl(ClockKind::Wall).records_survive(crash).tokens_survive(crash);
    let of = async |members: &[Guarantees]| {
        let members = members
            .iter()
            .map(|promised| Arc::new(Promising::new(MemoryStore::new(), *promised)) as Arc<dyn LockStore>);
        Quorum::open(members).await.unwrap().guarantees()
    };
    let minority = Faults::from(Fault::MinorityLoss);
    let all_strong = ttl(ClockKind::BootTime).records_survive(durable | minority).tokens_survive(durable | minority);
    assert_eq!(of(&[strong; 3]).await, all_strong);
    assert_eq!(
        of(&[strong, strong, weak]).await,
        ttl(ClockKind::Wall).records_survive(crash | minority).tokens_survive(crash | minority)
    );
    // Of two members none can be lost.
    assert_eq!(of(&[strong; 2]).await, ttl(ClockKind::BootTime).records_survive(durable).tokens_survive(durable));
    // This member raises no tokens.
    let silent = ttl(ClockKind::Wall).tokens_survive(durable);
    assert_eq!(of(&[strong, strong, silent]).await.tokens_survive, None);
    let members =
        [silent; 3].map(|promised| Arc::new(Promising::new(MemoryStore::new(), promised)) as Arc<dyn LockStore>);
    let quorum = Quorum::open(members).await.unwrap();
    assert_eq!(granted(&quorum, &claim()).await.token, None);
}

struct Members;

#[async_trait]
impl Driver for Members {
    fn kind(&self) -> StoreKind {
        StoreKind { schemes: &["member"], example: "", at_best: Guarantees::NONE, provided: "" }
    }

    async fn open(&self, url: &StoreUrl, _all: &Registry, clock: &Clock) -> Result<Arc<dyn LockStore>> {
        url.only_keys(&["key"])?;
        if url.hosts()[0].0 == "down" {
            return Err(Error::refused(ErrorKind::Unavailable, "it is down"));
        }
        assert_eq!((url.hosts().len(), url.path(), url.user(), url.value("key")), (1, "/7", Some("me"), Some("1")));
        Ok(Arc::new(MemoryStore::with_clock(clock.clone())))
    }
}

#[tokio::test]
async fn a_url_opens_a_member_for_each_host() {
    let kind = StoreKind { schemes: &["quorum"], ..Driver::kind(&QuorumDriver::redlock()) };
    let registry = Registry::new().with(Members).with(QuorumDriver::new(kind, "member")).with(QuorumDriver::redlock());
    let url = "quorum://me:hunter2@a,b:7,c/7?key=1&longest_ttl=20s&member_timeout=1s";
    let locks = registry.connect(url).ttl(10 * SECOND).await.unwrap();
    assert!(locks.guarantees().records_survive.contains(Fault::MinorityLoss.into()));
    locks.lock("job").acquire().await.unwrap().release().await.unwrap();
    let one_is_down = registry.connect("quorum://me:hunter2@a,b,down/7?key=1").await.unwrap();
    one_is_down.lock("job").acquire().await.unwrap().release().await.unwrap();
    let error = locks.lock("job").ttl(21 * SECOND).acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    for (url, says) in [
        ("quorum://me:hunter2@a,b/7?key=1", "3 hosts or more"),
        ("quorum://me:hunter2@a,b,a/7?key=1", "given twice"),
        (
            "quorum://me:hunter2@a,down,down:7/7?key=1",
            "1 of 3 members answered, and 2 must: member 2 (member://me:***@down/7?key=1): it is down",
        ),
        ("quorum://me:hunter2@a,b,c/7?key=1&tpyo=2", "tpyo"),
        ("redlock://a,b,c", "redis:"),
    ] {
        let error = registry.connect(url).await.unwrap_err();
        assert!(error.to_string().contains(says) && !error.to_string().contains("hunter2"), "{error}");
    }
}
