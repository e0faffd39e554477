//! All members end and come back from their disks.

use lock_testkit::Etcd;

use crate::fixture::{locks, secs, within_bound};

async fn survives(members: usize) {
    let mut etcd = Etcd::start(members);
    let (ours, theirs) = (locks(etcd.endpoints(), secs(60)).await, locks(etcd.endpoints(), secs(60)).await);
    let mut guards = Vec::new();
    for i in 0..10 {
        guards.push(ours.lock(format!("job/{i}")).acquire().await.unwrap());
    }
    etcd.kill_all();
    etcd.start_all();
    for (i, guard) in guards.into_iter().enumerate() {
        let name = format!("job/{i}");
        assert!(theirs.lock(&name).try_acquire().await.unwrap().is_none(), "a held lock was lost");
        within_bound("a renewal", guard.renew()).await.unwrap();
        let token = guard.token_if_any().cloned().unwrap();
        guard.release().await.unwrap();
        let next = within_bound("an acquire", theirs.lock(&name).acquire()).await.unwrap();
        assert!(*next.token_if_any().unwrap() > token, "a token fell");
        next.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_only_member_loses_no_lock_and_lets_no_token_fall() {
    survives(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_all_three_members_loses_no_lock_and_lets_no_token_fall() {
    survives(3).await;
}
