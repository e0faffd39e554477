//! P1 and P2: validity is true, and loss is on time.

use std::time::Duration;

use crate::watched::{SECOND, Watched};
use lock_conformance::faults::{Call, Disturbance};
use lock_core::*;
use tokio::time::{Instant, advance, sleep};

fn watched() -> Watched {
    Watched::new(MemoryStore::new())
}

#[tokio::test(start_paused = true)]
async fn validity_counts_from_the_sending_of_the_request() {
    let store = watched();
    store.script(Call::Request, [Disturbance::DelayReply(3 * SECOND)]);
    let guard = store.locks().lock("a").ttl(10 * SECOND).acquire().await.unwrap();
    assert_eq!(guard.remaining(), Duration::from_millis(10_000 - 3_000 - 100 - 2));
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_after_its_validity_is_given_back_and_asked_for_anew() {
    let store = watched();
    store.script(Call::Request, [Disturbance::DelayReply(2 * SECOND)]);
    let guard = store.locks().lock("a").ttl(SECOND).acquire().await.unwrap();
    assert!(guard.is_valid());
    assert_eq!(guard.token_if_any().unwrap().number(), 2, "the first grant was of another holder");
    assert_eq!(store.calls(Call::Request), 2);
}

#[tokio::test(start_paused = true)]
async fn a_try_whose_grant_arrives_after_its_validity_is_an_error_and_leaves_nothing() {
    let store = watched();
    store.script(Call::Request, [Disturbance::DelayReply(2 * SECOND)]);
    let locks = store.locks();
    let error = locks.lock("a").ttl(SECOND).try_acquire().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    locks.close().await;
    assert_eq!(store.memory.inspect(&LockName::new("a").unwrap(), Space::Locks).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_at_a_third_of_its_ttl() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    sleep(90 * SECOND).await;
    assert!(guard.is_valid());
    assert!((29..=31).contains(&store.calls(Call::Renew)), "{} renewals in ten TTLs", store.calls(Call::Renew));
}

#[tokio::test(start_paused = true)]
async fn a_guard_is_lost_at_its_deadline_although_renewal_hangs() {
    let store = watched();
    let start = Instant::now();
    let guard = store.locks().lock("a").ttl(10 * SECOND).acquire().await.unwrap();
    store.always(Call::Renew, Disturbance::Hang);
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert_eq!(start.elapsed().as_millis(), 10_000 - 102);
    store.heal();
    sleep(20 * SECOND).await;
    assert_eq!(guard.check(), Err(LossReason::Expired), "lost is lost");
}

#[tokio::test(start_paused = true)]
async fn why_the_last_renewal_failed_is_known_until_one_is_confirmed() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    assert!(guard.renewal_failure().is_none());
    store.script(Call::Renew, [Disturbance::Hang, Disturbance::Hang]);
    sleep(4 * SECOND).await;
    let silent = guard.renewal_failure().unwrap();
    assert!(silent.to_string().contains("has not answered"), "{silent}");
    sleep(9 * SECOND).await;
    assert!(guard.renewal_failure().is_none() && guard.is_valid());
    store.always(Call::Renew, Disturbance::LoseReply);
    guard.lost().await;
    sleep(SECOND).await;
    let failure = guard.renewal_failure().unwrap();
    assert!(!failure.to_string().contains("has not answered"), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_hangs_is_asked_again_and_the_lease_lives_on() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    store.script(Call::Renew, [Disturbance::Hang]);
    sleep(30 * SECOND).await;
    assert!(guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_are_tried_again_until_the_store_is_back() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    store.script(Call::Renew, [Disturbance::Fail; 3]);
    sleep(30 * SECOND).await;
    assert!(guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_comes_after_the_deadline_revives_nothing() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    store.always(Call::Renew, Disturbance::DelayReply(7 * SECOND));
    sleep(60 * SECOND).await;
    assert_eq!(guard.check(), Err(LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_suspended_past_the_ttl_wakes_without_the_lease() {
    let (clock, machine) = Clock::for_tests();
    let store = MemoryStore::with_clock(clock.clone());
    let guard = Locks::builder(store).clock(clock).build().lock("a").ttl(10 * SECOND).acquire().await.unwrap();
    machine.suspend(11 * SECOND);
    assert!(!guard.is_valid());
    let start = Instant::now();
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert!(start.elapsed() <= SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_lease_is_never_renewed_and_is_given_back_at_its_end() {
    let store = watched();
    let locks = store.locks();
    let guard = locks.lock("a").ttl(10 * SECOND).fixed().acquire().await.unwrap();
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert_eq!(store.calls(Call::Renew), 0);
    let other = locks.lock("a").acquire().await.unwrap();
    assert!(other.is_valid());
    assert!(store.calls(Call::Release) > 0, "it was given back before the store would have ended it");
}

#[tokio::test(start_paused = true)]
async fn a_broken_lock_is_noticed_at_the_next_renewal() {
    let store = watched();
    let locks = store.locks();
    let guard = locks.lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    let seen = locks.inspect("a").await.unwrap().pop().unwrap();
    let broken = locks.break_lock("a", &seen, BreakMode::Revoke).await.unwrap().unwrap();
    assert!(broken.token.unwrap() > *guard.token_if_any().unwrap());
    let start = Instant::now();
    assert_eq!(guard.lost().await, LossReason::NotHeld);
    assert!(start.elapsed() <= 3 * SECOND);
    assert_eq!(guard.release().await.unwrap_err().loss(), Some(LossReason::NotHeld));
}

#[tokio::test(start_paused = true)]
async fn work_is_dropped_where_it_stands_when_the_lease_is_lost() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    store.always(Call::Renew, Disturbance::Hang);
    let mut steps = 0;
    let work = async {
        loop {
            sleep(SECOND).await;
            steps += 1;
        }
    };
    let ended: Result<(), LossReason> = guard.while_held(work).await;
    assert_eq!(ended, Err(LossReason::Expired));
    assert_eq!(steps, 8);
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_after_the_loss_is_reported_as_lost() {
    let guard = watched().locks().lock("a").ttl(SECOND).fixed().acquire().await.unwrap();
    // One step that blocks past the deadline, as a pause of the process does.
    let ended = guard.while_held(advance(2 * SECOND)).await;
    assert_eq!(ended, Err(LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn work_that_ends_in_time_gives_its_output() {
    let guard = watched().locks().lock("a").acquire().await.unwrap();
    assert_eq!(guard.while_held(async { 42 }).await, Ok(42));
}

#[tokio::test(start_paused = true)]
async fn helpers_see_the_release_of_the_guard_before_the_store_does() {
    let store = watched();
    let guard = store.locks().lock("a").acquire().await.unwrap();
    let helper = guard.validity();
    store.script(Call::Release, [Disturbance::Delay(SECOND)]);
    let release = tokio::spawn(guard.release());
    assert_eq!(helper.lost().await, LossReason::Released);
    assert!(!release.is_finished());
    release.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_renewal_by_hand_extends_the_lease_or_says_why_not() {
    let store = watched();
    let locks = store.locks();
    let guard = locks.lock("a").ttl(9 * SECOND).fixed().acquire().await.unwrap();
    advance(5 * SECOND).await;
    guard.renew().await.unwrap();
    assert!(guard.remaining() > 8 * SECOND);
    store.script(Call::Renew, [Disturbance::Fail]);
    assert_eq!(guard.renew().await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(guard.is_valid(), "unknown neither extends nor ends");
    let seen = locks.inspect("a").await.unwrap().pop().unwrap();
    locks.break_lock("a", &seen, BreakMode::Now).await.unwrap();
    assert_eq!(guard.renew().await.unwrap_err().kind(), ErrorKind::Lost);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_told_to_who_asked_before_it_came() {
    let store = watched();
    let guard = store.locks().lock("a").ttl(9 * SECOND).acquire().await.unwrap();
    let renewed = guard.renewed();
    sleep(4 * SECOND).await;
    let start = Instant::now();
    renewed.await.unwrap();
    assert!(start.elapsed().is_zero(), "it was renewed after 3 s");
    guard.renewed().await.unwrap();
    assert!(guard.remaining() > 8 * SECOND);
    store.always(Call::Renew, Disturbance::Hang);
    assert_eq!(guard.renewed().await, Err(LossReason::Expired));
}

#[tokio::test(start_paused = true)]
async fn a_ttl_that_leaves_nothing_to_believe_in_is_refused_with_what_is_accepted() {
    let locks = watched().locks();
    for ttl in [Duration::ZERO, Duration::from_millis(9), Duration::from_secs(31 * 86_400)] {
        let error = locks.lock("a").ttl(ttl).acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("10 ms to 30 days"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn settings_that_leave_nothing_to_believe_in_are_refused_before_anything_is_asked() {
    let store = watched();
    let margin = store.builder().clock(Clock::system().with_margin(SECOND)).build();
    let no_time = store.builder().call_timeout(Duration::ZERO).build();
    for (locks, named) in [(margin, "margin 1s"), (no_time, "time-out 0s")] {
        let error = locks.lock("a").ttl(SECOND).acquire().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains(named), "{error}");
    }
    assert_eq!(store.calls(Call::Request), 0);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_is_not_told_of_a_limit() {
    let locks = watched().locks();
    let _guard = locks.lock("a").acquire().await.unwrap();
    let error = locks.lock("a").wait(Duration::ZERO).acquire().await.unwrap_err();
    assert!(error.to_string().ends_with("and it is not waited for"), "{error}");
}
