//! Keepalives of a stale leader, which was paused, deposed and cut off: no guard may rely on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lock_core::{ErrorKind, Fence, FencingToken, LockGuard, LockName, Locks, LossReason};
use lock_testkit::{Etcd, until};

use crate::fixture::{keys, lease_of, locks, secs, within_bound};

const TTL: Duration = secs(4);

/// Number of cuts: a few, or the number in the environment.
fn cuts() -> u32 {
    std::env::var("LEASEHOLD_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(3)
}

/// The keepalives of a plain client, which relies on each of them.
#[derive(Default)]
struct Plain {
    answered: u32,
    /// The end of the lease by its reckoning.
    until: Option<Instant>,
}

/// Sends keepalives to the member as a plain client does.
async fn plain_keepalives(endpoint: String, lease: i64, over: Arc<AtomicBool>) -> Plain {
    let client = etcd_client::Client::connect([endpoint], None).await.unwrap();
    let mut plain = Plain::default();
    while !over.load(Ordering::Relaxed) {
        let asked = async {
            let (mut keeper, mut answers) = client.lease_client().keep_alive(lease).await?;
            let sent = Instant::now();
            keeper.keep_alive().await?;
            Ok::<_, etcd_client::Error>(answers.message().await?.map(|answer| (sent, answer.ttl())))
        };
        if let Ok(Ok(Some((sent, ttl @ 1..)))) = tokio::time::timeout(Duration::from_millis(100), asked).await {
            plain.answered += 1;
            plain.until = Some(sent + Duration::from_secs(ttl.unsigned_abs()));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    plain
}

/// Acquires, and repeats it if an election takes longer than the call.
async fn acquire(locks: Locks, name: LockName) -> LockGuard {
    loop {
        match locks.lock(&name).acquire().await {
            Ok(guard) => return guard,
            Err(error) => assert!(error.is_retryable(), "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_leader_makes_no_guard_believe_past_the_next_grant() {
    let etcd = Arc::new(Etcd::start_linked(3));
    let name = LockName::new("job").unwrap();
    let (mut answered, mut fooled, mut latest) = (0, 0, Duration::ZERO);
    // A plain client must have been fooled once at least: else the cuts would show nothing.
    let enough = |cut, fooled| cut >= cuts() && fooled > 0;
    let mut cut = 0;
    while !enough(cut, fooled) {
        assert!(cut < cuts() + 30, "no cut fooled a plain client: {answered} answers of stale leaders in {cut} cuts");
        let (stale, endpoints) = (etcd.leader(), etcd.endpoints());
        // This holder gets all its replies from the member that will be stale.
        let theirs = locks(vec![endpoints[stale].clone()], TTL).await;
        let others = endpoints.iter().enumerate().filter(|(i, _)| *i != stale).map(|(_, e)| e.clone()).collect();
        let next = locks(others, TTL).await;
        let holder = within_bound("an acquire", acquire(theirs, name.clone())).await;
        let old: FencingToken = holder.token_if_any().cloned().unwrap();
        let lease = i64::from_str_radix(&lease_of(&etcd, name.as_str()), 16).unwrap();
        // Another phase of the renewals at each cut.
        tokio::time::sleep(Duration::from_millis(u64::from(cut) * 370 % 1_000)).await;
        let process = etcd.member(stale).process();
        process.pause();
        // At once: what the others say of their election would wait in its kernel, and be read
        // first.
        etcd.isolate(stale);
        let waiter = tokio::spawn(acquire(next, name.clone()));
        let (leads, looks) = (etcd.clone(), stale);
        tokio::task::spawn_blocking(move || leads.leader_other_than(looks)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(u64::from(cut) * 530 % 1_500)).await;
        process.resume();
        let over = Arc::new(AtomicBool::new(false));
        let plain = tokio::spawn(plain_keepalives(endpoints[stale].clone(), lease, over.clone()));

        let granted = within_bound("the next grant", waiter).await.unwrap();
        let granted_at = Instant::now();
        assert!(!holder.is_valid(), "cut {cut}: believed {:?} past the next grant", holder.remaining());
        over.store(true, Ordering::Relaxed);
        let plain = plain.await.unwrap();
        answered += plain.answered;
        let past = plain.until.unwrap_or(granted_at).saturating_duration_since(granted_at);
        fooled += u32::from(!past.is_zero());
        latest = latest.max(past);

        // A late write of the old holder is fenced.
        let resource = Fence::in_memory();
        drop(resource.enter(&name, granted.token_if_any().unwrap()).await.unwrap());
        assert!(resource.enter(&name, &old).await.is_err());
        // Its answer may be lost in the turmoil; then that is what it says.
        let released = granted.release().await;
        assert!(released.as_ref().err().is_none_or(|error| error.may_have_taken_effect()), "{released:?}");
        drop(holder);
        etcd.rejoin(stale);
        let healed = etcd.clone();
        let all = move || until("all members", || healed.is_healthy().then_some(()));
        tokio::task::spawn_blocking(all).await.unwrap();
        cut += 1;
    }
    println!(
        "{cut} cuts: the stale leaders answered {answered} keepalives of a plain client, which believed past the next"
    );
    println!("grant in {fooled} of them, for up to {latest:.1?}; our guards in none");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_old_server_revokes_early_is_seen_and_its_holder_fenced() {
    let etcd = Arc::new(Etcd::start(3));
    let name = LockName::new("job").unwrap();
    let holder = locks(etcd.endpoints(), TTL).await.lock(&name).acquire().await.unwrap();
    let old = holder.token_if_any().cloned().unwrap();
    let next = tokio::spawn(acquire(locks(etcd.endpoints(), TTL).await, name.clone()));
    until("its place", || (keys(&etcd, name.as_str()).len() == 2).then_some(()));
    let stale = etcd.leader();
    let process = etcd.member(stale).process();
    process.pause();
    // The lease is kept alive through the next leader; by the clock of the old one it has ended
    // long ago.
    tokio::time::sleep(TTL * 2).await;
    let kept = holder.is_valid();
    process.resume();
    let mut next = next;
    let early = tokio::time::timeout(TTL, &mut next).await;
    println!("kept through the pause: {kept}; ended early by the old leader: {}", kept && early.is_ok());
    let granted = match early {
        Ok(granted) => {
            // There may be two who believe for a moment: until the holder's next round.
            let reason = within_bound("the loss", holder.lost()).await;
            assert_ne!(reason, LossReason::Released);
            granted.unwrap()
        }
        Err(_) => {
            drop(holder);
            within_bound("the next grant", next).await.unwrap()
        }
    };
    let resource = Fence::in_memory();
    drop(resource.enter(&name, granted.token_if_any().unwrap()).await.unwrap());
    assert_eq!(resource.enter(&name, &old).await.unwrap_err().kind(), ErrorKind::Fenced);
}
