//! The cost of a lock for the cluster.

use lock_testkit::Etcd;

use crate::fixture::{keys, locks_on, patient_store, secs, shared_server, unique_name, until, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_free_costs_two_proposals_and_a_try_for_a_held_one_costs_none() {
    let etcd = Etcd::start(1);
    let (ours, theirs) = (patient_store(etcd.endpoints()).await, patient_store(etcd.endpoints()).await);
    let (ours, theirs) = (locks_on(&ours, secs(60)), locks_on(&theirs, secs(60)));
    // Opens the sessions.
    ours.lock("job").acquire().await.unwrap().release().await.unwrap();
    let held = theirs.lock("held").acquire().await.unwrap();

    let before = etcd.committed_proposals();
    for _ in 0..100 {
        ours.lock("job").acquire().await.unwrap().release().await.unwrap();
    }
    let cycles = etcd.committed_proposals() - before;
    assert_eq!(cycles, 200, "100 cycles");

    let before = etcd.committed_proposals();
    for _ in 0..50 {
        assert!(ours.lock("held").try_acquire().await.unwrap().is_none());
    }
    let tries = etcd.committed_proposals() - before;
    // A transaction that may write is proposed, although it then writes nothing.
    assert!(tries <= 50, "{tries} proposals by 50 tries");
    held.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_used_again_and_again() {
    let (etcd, name) = (shared_server(), unique_name("again"));
    let locks = locks_on(&patient_store(etcd.endpoints()).await, secs(60));
    let mut used = std::collections::HashSet::new();
    for _ in 0..20 {
        let guard = locks.lock(&name).acquire().await.unwrap();
        used.extend(keys(etcd, name.as_str()));
        guard.release().await.unwrap();
    }
    assert_eq!(used.len(), 1, "etcd looks at every key that ever was: {used:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_within_one_process_is_one_step() {
    let etcd = Etcd::start(1);
    let locks = locks_on(&patient_store(etcd.endpoints()).await, secs(60));
    let mut spent = Vec::new();
    // The first rounds cost more, and so does a round in which a busy machine has closed the idle
    // watch.
    while spent.len() < 20 && !spent.contains(&3) {
        let holder = locks.lock("job").acquire().await.unwrap();
        let before = etcd.transactions();
        let waiter = tokio::spawn(locks.lock("job").acquire());
        until("its place", || async { keys(&etcd, "job").len() == 2 }).await;
        holder.release().await.unwrap();
        within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
        spent.push(etcd.transactions() - before);
    }
    assert!(spent.contains(&3), "taking a place, the hand-over, and a release took {spent:?} transactions");
    assert!(spent.iter().all(|spent| *spent >= 3), "{spent:?}");
}
