//! Leases that a shared session carries.

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Call, Disturbance};
use lock_core::*;
use tokio::time::{Instant, sleep, timeout};

fn sessions() -> (MemoryStore, Watched) {
    let memory = MemoryStore::with_sessions(Clock::system());
    (memory.clone(), Watched::new(memory))
}

#[tokio::test(start_paused = true)]
async fn many_leases_on_one_session_are_one_renewal() {
    let (_, store) = sessions();
    let locks = store.locks();
    let mut guards = Vec::new();
    for number in 0..1_000 {
        guards.push(locks.lock(format!("lock {number}")).ttl(9 * SECOND).acquire().await.unwrap());
    }
    sleep(90 * SECOND).await;
    assert!(guards.iter().all(|guard| guard.is_valid()));
    assert!((29..=31).contains(&store.calls(Call::Renew)), "{} renewals in ten TTLs", store.calls(Call::Renew));
    assert!(store.seen.batches.lock().unwrap().iter().all(|size| *size == 1));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_told_to_every_guard_at_once() {
    let (memory, store) = sessions();
    let locks = store.locks();
    let a = locks.lock("a").acquire().await.unwrap();
    let b = locks.lock("b").acquire().await.unwrap();
    let start = Instant::now();
    memory.end_sessions();
    assert_eq!((a.lost().await, b.lost().await), (LossReason::SessionEnded, LossReason::SessionEnded));
    assert!(start.elapsed().is_zero());
    let again = locks.lock("a").acquire().await.unwrap();
    assert!(again.is_valid(), "the next acquire is on a new session");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_session_has_ended_takes_a_new_place_and_is_not_granted_on_the_old_one() {
    let (memory, store) = sessions();
    let holder = Locks::new(memory.clone()).lock("a").fixed().ttl(60 * SECOND).acquire().await.unwrap();
    let waiter = tokio::spawn(store.locks().lock("a").ttl(9 * SECOND).acquire());
    sleep(SECOND).await;
    memory.end_sessions();
    sleep(SECOND).await;
    holder.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.is_valid());
    sleep(60 * SECOND).await;
    assert!(guard.is_valid(), "it is carried by a session that is renewed");
}

#[tokio::test(start_paused = true)]
async fn one_broken_lock_on_a_session_is_noticed_in_one_round_and_the_others_stay() {
    let (memory, store) = sessions();
    let locks = store.locks();
    let a = locks.lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    let b = locks.lock("b").ttl(9 * SECOND).acquire().await.unwrap();
    let seen = locks.inspect("a").await.unwrap().pop().unwrap();
    Locks::new(memory).break_lock("a", &seen, BreakMode::Now).await.unwrap().unwrap();
    let start = Instant::now();
    assert_eq!(a.lost().await, LossReason::NotHeld);
    assert!(start.elapsed() <= 4 * SECOND && b.is_valid());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_claims_any_more_is_deleted_from_the_session_in_the_next_round() {
    let (memory, store) = sessions();
    let _other = store.locks().lock("b").ttl(9 * SECOND).acquire().await.unwrap();
    // A claim that reached the store, but whose owner does not know it.
    let lost = Claim::new(LockName::new("a").unwrap(), 9 * SECOND);
    assert!(matches!(memory.request(&lost).await.unwrap(), Attempt::Granted(_)));
    drop(lost);
    sleep(4 * SECOND).await;
    assert_eq!(memory.inspect(&LockName::new("a").unwrap(), Space::Locks).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_idle_is_renewed_again_when_it_carries_a_lease() {
    let (_, store) = sessions();
    let locks = store.locks();
    locks.lock("a").ttl(9 * SECOND).acquire().await.unwrap().release().await.unwrap();
    sleep(4 * SECOND).await;
    let guard = locks.lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    sleep(60 * SECOND).await;
    assert!(guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_left_to_expire() {
    let (_, store) = sessions();
    let locks = store.locks();
    locks.lock("a").ttl(9 * SECOND).acquire().await.unwrap().release().await.unwrap();
    sleep(60 * SECOND).await;
    assert!(store.calls(Call::Renew) <= 1, "{} renewals of nothing", store.calls(Call::Renew));
}

#[tokio::test(start_paused = true)]
async fn a_place_in_the_queue_is_kept_alive_by_its_session() {
    let (memory, store) = sessions();
    let holder = Locks::new(memory).lock("a").acquire().await.unwrap();
    let mut waiter = Box::pin(store.locks().lock("a").ttl(9 * SECOND).acquire());
    assert!(timeout(60 * SECOND, &mut waiter).await.is_err());
    let renewals = store.calls(Call::Renew);
    assert!(renewals >= 18, "{renewals} renewals");
    holder.release().await.unwrap();
    assert!(waiter.await.unwrap().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_stays_unclear_becomes_an_orphan_and_costs_no_other_lease() {
    let (memory, store) = sessions();
    let locks = store.builder().call_timeout(SECOND).build();
    let guard = locks.lock("b").ttl(9 * SECOND).acquire().await.unwrap();
    store.script(Call::Request, [Disturbance::LoseReply]);
    store.always(Call::Release, Disturbance::Fail);
    assert!(locks.lock("a").ttl(9 * SECOND).try_acquire().await.is_err());
    sleep(20 * SECOND).await;
    assert!(
        memory.inspect(&LockName::new("a").unwrap(), Space::Locks).await.unwrap().is_empty(),
        "the next renewals have deleted it"
    );
    assert!(guard.is_valid(), "{:?}", guard.check());
}

#[tokio::test(start_paused = true)]
async fn two_engines_renew_the_sessions_that_they_share_by_the_store() {
    let (memory, _) = sessions();
    let (a, b) = (Locks::new(memory.clone()), Locks::new(memory));
    let one = a.lock("one").ttl(3 * SECOND).acquire().await.unwrap();
    let two = b.lock("two").ttl(3 * SECOND).acquire().await.unwrap();
    sleep(10 * SECOND).await;
    one.release().await.unwrap();
    sleep(10 * SECOND).await;
    assert!(two.is_valid(), "the other engine goes on");
}

#[tokio::test(start_paused = true)]
async fn what_a_late_request_brings_is_an_orphan_although_a_copy_of_the_validity_lives_on() {
    let (memory, store) = sessions();
    let locks = store.locks();
    let other = locks.lock("other").ttl(3 * SECOND).acquire().await.unwrap();
    store.script(Call::Request, [Disturbance::ApplyTwice(SECOND)]);
    let guard = locks.lock("job").ttl(3 * SECOND).acquire().await.unwrap();
    let validity = guard.validity();
    guard.release().await.unwrap();
    sleep(10 * SECOND).await;
    assert!(
        memory.inspect(validity.name(), Space::Locks).await.unwrap().is_empty(),
        "it is gone with the next renewals"
    );
    assert!(other.is_valid());
}

/// Notes the remaining validity of one guard when it is woken for the loss of another.
struct Noted {
    lost: Validity,
    other: Validity,
    remaining: std::sync::Mutex<Option<std::time::Duration>>,
}

impl std::task::Wake for Noted {
    fn wake(self: std::sync::Arc<Self>) {
        if self.lost.check().is_err() {
            self.remaining.lock().unwrap().get_or_insert(self.other.remaining());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_told_before_the_session_is_believed_in_for_longer() {
    let (memory, store) = sessions();
    let locks = store.locks();
    let other = locks.lock("other").ttl(9 * SECOND).acquire().await.unwrap();
    let broken = locks.lock("broken").ttl(9 * SECOND).acquire().await.unwrap();
    let name = LockName::new("broken").unwrap();
    let seen = memory.inspect(&name, Space::Locks).await.unwrap().pop().unwrap();
    memory.break_lock(&name, &seen, BreakMode::Now).await.unwrap().unwrap();
    let (lost, remaining) = (broken.validity(), std::sync::Mutex::default());
    let noted = std::sync::Arc::new(Noted { lost, other: other.validity(), remaining });
    let waker = noted.clone().into();
    let mut lost = std::pin::pin!(broken.lost());
    while broken.is_valid() {
        assert!(lost.as_mut().poll(&mut std::task::Context::from_waker(&waker)).is_pending());
        sleep(SECOND / 2).await;
    }
    assert_eq!(broken.check(), Err(LossReason::NotHeld), "there was a renewal");
    let remaining = noted.remaining.lock().unwrap().unwrap();
    assert!(remaining < 7 * SECOND, "the other lease had {remaining:?} left, when this one was told of its loss");
}
