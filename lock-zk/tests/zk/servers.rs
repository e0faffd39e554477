//! The loss of servers of an ensemble of three.

use lock_core::{Locks, LossReason};
use lock_testkit::ZooKeeper;

use crate::fixture::{locks, secs, start_waiting, within_bound};

#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Paused,
    Silent,
}

fn inflict(zookeeper: &mut ZooKeeper, server: usize, fault: Fault) {
    match fault {
        Fault::Killed => zookeeper.server_mut(server).kill(),
        Fault::Paused => zookeeper.server(server).process().pause(),
        Fault::Silent => zookeeper.server(server).proxy().hold(),
    }
}

fn heal(zookeeper: &mut ZooKeeper, server: usize, fault: Fault) {
    match fault {
        Fault::Killed => zookeeper.server_mut(server).start(),
        Fault::Paused => zookeeper.server(server).process().resume(),
        Fault::Silent => zookeeper.server(server).proxy().forward(),
    }
}

/// Acquires and releases, and retries while the store cannot answer.
async fn cycle(locks: &Locks, name: &str) {
    let cycle = async {
        loop {
            match locks.lock(name).acquire().await {
                Ok(guard) => return drop(guard.release().await),
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    };
    within_bound("a lock", cycle).await;
}

/// With one server gone, a held lock stays valid, and acquiring, renewing and releasing go on.
async fn assert_goes_on(fault: Fault) {
    let mut zookeeper = ZooKeeper::start(3);
    let leader = zookeeper.leader();
    for server in [(leader + 1) % 3, leader] {
        let locks = locks(zookeeper.proxy_endpoints(), secs(20)).await;
        let held = locks.lock("held").acquire().await.unwrap();
        inflict(&mut zookeeper, server, fault);
        cycle(&locks, "next").await;
        within_bound("a renewal", async { while held.renew().await.is_err() {} }).await;
        for i in 0..20 {
            cycle(&locks, &format!("next/{i}")).await;
        }
        assert!(held.is_valid(), "{:?}", held.check());
        heal(&mut zookeeper, server, fault);
        within_bound("a release", held.release()).await.ok();
        locks.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_servers_killed_all_goes_on() {
    assert_goes_on(Fault::Killed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_servers_paused_all_goes_on() {
    assert_goes_on(Fault::Paused).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_one_of_three_servers_silent_all_goes_on() {
    assert_goes_on(Fault::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_server_was_killed_is_served() {
    let mut zookeeper = ZooKeeper::start(3);
    let follower = (zookeeper.leader() + 1) % 3;
    let name = lock_core::LockName::new("job").unwrap();
    let own = vec![zookeeper.endpoints()[follower].clone(), zookeeper.endpoints()[(follower + 1) % 3].clone()];
    let (ours, theirs) = (locks(own, secs(20)).await, locks(zookeeper.endpoints(), secs(20)).await);
    let holder = theirs.lock(&name).acquire().await.unwrap();
    let waiter = start_waiting(&ours, &name).await;
    zookeeper.server_mut(follower).kill();
    within_bound("a release", holder.release()).await.ok();
    let guard = within_bound("the waiter's turn", waiter).await.unwrap().unwrap();
    guard.release().await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_two_of_three_are_gone_nothing_is_granted_and_the_guard_is_lost_on_time() {
    let mut zookeeper = ZooKeeper::start(3);
    let locks = locks(zookeeper.endpoints(), secs(4)).await;
    let held = locks.lock("held").acquire().await.unwrap();
    zookeeper.server_mut(1).kill();
    zookeeper.server_mut(2).kill();
    let tried = locks.lock("other").try_acquire().await;
    assert!(tried.as_ref().err().is_some_and(|error| error.is_retryable()), "{tried:?}");
    let why = within_bound("the loss", held.lost()).await;
    assert!(matches!(why, LossReason::Expired | LossReason::SessionEnded), "{why}");
    zookeeper.start_all();
    cycle(&locks, "other").await;
}
