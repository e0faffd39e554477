//! The loss of one of three members: all operations go on.

use std::time::{Duration, Instant};

use etcd_client::Client;
use lock_testkit::Etcd;

use crate::fixture::{locks, secs, start_waiting, within_bound};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Paused,
    CutOff,
    Silent,
}

fn inflict(etcd: &mut Etcd, member: usize, fault: Fault) {
    match fault {
        Fault::Killed => etcd.member_mut(member).kill(),
        Fault::Paused => etcd.member(member).process().pause(),
        Fault::CutOff => etcd.member(member).proxy().cut(),
        Fault::Silent => etcd.member(member).proxy().hold(),
    }
}

fn heal(etcd: &mut Etcd, member: usize, fault: Fault) {
    match fault {
        Fault::Killed => etcd.member_mut(member).start(),
        Fault::Paused => etcd.member(member).process().resume(),
        Fault::CutOff | Fault::Silent => etcd.member(member).proxy().forward(),
    }
}

/// The duration in which no write succeeds: until the first write of a bare client at one of the
/// other members, which it tries one after the other.
async fn outage(etcd: &Etcd, but: usize) -> impl Future<Output = Duration> + use<> {
    let turn = Etcd::ELECTION_TIMEOUT / 10;
    let mut clients = Vec::new();
    for (_, member) in etcd.endpoints().into_iter().enumerate().filter(|(member, _)| *member != but) {
        let client = Client::connect([member], None).await.unwrap();
        client.kv_client().get("bare", None).await.unwrap();
        clients.push(client);
    }
    async move {
        let began = Instant::now();
        loop {
            for client in &clients {
                let write = async { client.kv_client().put("bare", "", None).await };
                if matches!(tokio::time::timeout(turn, write).await, Ok(Ok(_))) {
                    return began.elapsed();
                }
            }
            // Both may answer at once that there is no leader.
            tokio::time::sleep(turn / 10).await;
        }
    }
}

/// Without one member, the preferred one or the leader, a held lock stays valid, and acquiring,
/// renewing and releasing go on as soon as a bare client can write.
async fn survives(fault: Fault) {
    let mut etcd = Etcd::start(3);
    for leads in [false, true] {
        let locks = locks(etcd.proxy_endpoints(), secs(20)).await;
        let held = locks.lock("held").acquire().await.unwrap();
        let leader = etcd.leader();
        // Calls begin at the first endpoint.
        let member = if leads { leader } else { 0 };
        let outage = outage(&etcd, member).await;
        inflict(&mut etcd, member, fault);
        let outage = tokio::spawn(outage);
        let began = Instant::now();
        let guard = within_bound("an acquire", locks.lock("next").acquire()).await.unwrap();
        let acquired = began.elapsed();
        within_bound("a renewal", held.renew()).await.unwrap();
        within_bound("a release", guard.release()).await.unwrap();
        let all = began.elapsed();
        let outage = within_bound("a bare write", outage).await.unwrap();
        println!(
            "{fault:?}, leads {leads}: acquired after {acquired:?}, all after {all:?}; a bare write after {outage:?}"
        );
        // On an idle machine no more than one time-out over the bare client's; a busy one is slow
        // to both.
        assert!(
            all < outage * 4 + Etcd::ELECTION_TIMEOUT * 10,
            "{all:?}, and a bare write was through after {outage:?}"
        );
        for i in 0..20 {
            let guard = within_bound("an acquire", locks.lock(format!("next/{i}")).acquire()).await.unwrap();
            within_bound("a release", guard.release()).await.unwrap();
        }
        assert!(held.is_valid(), "{:?}", held.check());
        heal(&mut etcd, member, fault);
        within_bound("a release", held.release()).await.unwrap();
        locks.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_members_killed_all_goes_on() {
    survives(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_members_paused_all_goes_on() {
    survives(Fault::Paused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_members_cut_off_from_us_all_goes_on() {
    survives(Fault::CutOff).await;
    survives(Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_watch_hangs_at_a_silent_member_is_served() {
    let etcd = Etcd::start(3);
    let (ours, theirs) = (locks(etcd.proxy_endpoints(), secs(30)).await, locks(etcd.endpoints(), secs(30)).await);
    let holder = theirs.lock("job").acquire().await.unwrap();
    let waiter = start_waiting(&ours, "job").await;
    etcd.member(0).proxy().hold();
    holder.release().await.unwrap();
    let guard = within_bound("the waiter's turn", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_two_of_three_are_gone_nothing_is_granted_and_the_guard_is_lost_on_time() {
    let mut etcd = Etcd::start(3);
    let locks = locks(etcd.endpoints(), secs(3)).await;
    let held = locks.lock("held").acquire().await.unwrap();
    etcd.member_mut(1).kill();
    etcd.member_mut(2).kill();
    let error = locks.lock("other").try_acquire().await.unwrap_err();
    assert!(error.is_retryable(), "{error:?}");
    assert_eq!(within_bound("the loss", held.lost()).await, lock_core::LossReason::Expired);
    etcd.start_all();
    let guard = within_bound("an acquire", locks.lock("other").acquire()).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_buffered_at_a_paused_member_leaves_nothing() {
    let etcd = Etcd::start(3);
    let ours = locks(etcd.endpoints(), secs(20)).await;
    // A session is open, and renewed for as long as this is held.
    let other = ours.lock("other").acquire().await.unwrap();
    etcd.member(0).process().pause();
    let guard = within_bound("an acquire", ours.lock("job").acquire()).await.unwrap();
    guard.release().await.unwrap();
    etcd.member(0).process().resume();
    let theirs = locks(vec![etcd.endpoints()[0].clone()], secs(20)).await;
    for _ in 0..20 {
        let guard = within_bound("an acquire", theirs.lock("job").acquire()).await.unwrap();
        guard.release().await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(theirs.inspect("job").await.unwrap().is_empty());
    other.release().await.unwrap();
}
