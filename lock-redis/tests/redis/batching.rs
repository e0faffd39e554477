//! Requests and releases that come at the same time.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{join, join_all};
use lock_core::{Attempt, BreakMode, Claim, ErrorKind, LockStore, ReleaseOutcome, Result, Space};
use lock_testkit::{RedisCluster, WAIT_TIMEOUT, until};

use crate::batch::{
    at_once, batch, claims, held_by, numbered, release_together, request, request_together, set_rights, token,
};
use crate::fixture::{LONG, calls, grant, is_held, locks, name, open, server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_cost_a_few_calls_and_each_has_its_own_answer() {
    let server = server();
    let store = open(&server.url()).await;
    let held = Claim::new(name("held"), LONG);
    grant(&store, &held).await;
    let mut all = numbered(100);
    all.push(Claim::new(name("held"), LONG));
    let before = calls(&server, "evalsha");
    let answers = request(&store, &all, &server).await;
    assert!(calls(&server, "evalsha") - before < 10, "{} calls", calls(&server, "evalsha") - before);
    assert!(matches!(answers.last(), Some(Ok(Attempt::Held(_)))), "{:?}", answers.last());
    let tokens: BTreeSet<_> = answers[..100].iter().map(token).collect();
    assert_eq!(tokens.len(), 100, "each has a token of its own");
    // Asked again, each has the same.
    let again: BTreeSet<_> = request(&store, &all[..100], &server).await.iter().map(token).collect();
    assert_eq!(again, tokens);
    let before = calls(&server, "evalsha");
    let released = at_once(&server, join_all(all.iter().map(|claim| store.release(claim, Duration::ZERO)))).await;
    assert!(calls(&server, "evalsha") - before < 10, "{} calls", calls(&server, "evalsha") - before);
    let held_until_now = |released: &&Result<ReleaseOutcome>| matches!(released, Ok(ReleaseOutcome::Held));
    assert_eq!(released.iter().filter(held_until_now).count(), 100, "{released:?}");
    assert!(matches!(released.last(), Some(Ok(ReleaseOutcome::NotHeld))), "{:?}", released.last());
    let next: Vec<_> = request(&store, &numbered(100), &server).await.iter().map(token).collect();
    assert!(next.iter().min() > tokens.iter().max(), "later tokens are greater");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_comes_alone_is_one_call() {
    let server = server();
    let store = open(&server.url()).await;
    let before = calls(&server, "evalsha");
    for claim in numbered(10) {
        grant(&store, &claim).await;
        assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    }
    // The first found a counter that is new, and asked for the realm.
    assert!(calls(&server, "evalsha") - before <= 10 * 2 + 2, "{} calls", calls(&server, "evalsha") - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_is_denied_spoils_no_other() {
    let server = server();
    set_rights(&server, &["resetkeys", "~lock:job*", "~lock:\u{1f}*"]);
    let store = open(&server.url()).await;
    let all = claims((0..20).map(|number| if number == 13 { "denied".to_owned() } else { format!("job {number}") }));
    for (claim, answer) in all.iter().zip(request(&store, &all, &server).await) {
        match claim.name().as_str() {
            "denied" => assert_eq!(answer.err().unwrap().kind(), ErrorKind::Denied),
            _ => assert!(token(&answer) > 0),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_away_while_others_are_asked_for_keeps_nobody_waiting() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(40);
    server.pause();
    {
        let mut gone = Box::pin(join_all(all[..20].iter().map(|claim| store.request(claim))));
        tokio::select! {
            biased;
            _ = &mut gone => panic!("a server that stands still answers nobody"),
            () = tokio::task::yield_now() => {}
        }
    }
    let rest = request(&store, &all[20..], &server).await;
    assert!(rest.iter().all(|answer| token(answer) > 0));
    // Those that went away were sent all the same, or not: whoever cut them off gives them back.
    for claim in &all {
        store.release(claim, Duration::ZERO).await.unwrap();
    }
    assert_eq!(store.list(Space::Locks, None, 100).await.unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_look_at_its_answer_keeps_nobody_waiting() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(20);
    let mut asleep: Vec<_> = all[..10].iter().map(|claim| Box::pin(store.request(claim))).collect();
    for one in &mut asleep {
        tokio::select! {
            biased;
            _ = one => {}
            () = tokio::task::yield_now() => {}
        }
    }
    let awake = join_all(all[10..].iter().map(|claim| store.request(claim)));
    let answers = tokio::time::timeout(WAIT_TIMEOUT, awake).await.expect("nobody waits for who is asleep");
    assert!(answers.iter().all(|answer| token(answer) > 0));
    drop(asleep);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_are_free_cost_one_look_and_one_step_of_the_counter() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let count = || ["exists", "incrby", "incr", "get"].map(|command| calls(&server, command));
    let before = count();
    let answers = request_together(&server, &store, &numbered(20)).await;
    assert!(answers.iter().all(|answer| token(answer) > 0));
    let [exists, incrby, incr, get] = before;
    // The two ahead are releases, which read their lock.
    assert_eq!(count(), [exists + 1, incrby + 1, incr, get + 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_that_are_released_cost_one_look_and_one_deletion() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(20);
    request(&store, &all, &server).await;
    let count = || ["mget", "del", "publish"].map(|command| calls(&server, command));
    let [mget, del, publish] = count();
    let answers = release_together(&server, &store, &all).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(ReleaseOutcome::Held))), "{answers:?}");
    assert_eq!(count(), [mget + 1, del + 1, publish + 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_asked_for_twice_is_granted_once_and_the_other_is_told_who_holds_it() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let all = claims(["job", "beside", "job"].map(str::to_owned));
    let answers = request_together(&server, &store, &all).await;
    assert!(token(&answers[1]) > token(&answers[0]));
    assert_eq!(held_by(&answers[2]).holder, Some(all[0].holder()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_asked_for_twice_has_one_token() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let claim = Claim::new(name("job"), LONG);
    let answers = request_together(&server, &store, &[claim.clone(), claim]).await;
    assert_eq!(token(&answers[0]), token(&answers[1]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_is_released_twice_is_released_once() {
    let server = server();
    let store = open(&server.url()).await;
    let claim = Claim::new(name("job"), LONG);
    grant(&store, &claim).await;
    let answers = release_together(&server, &store, &[claim.clone(), claim]).await;
    assert!(matches!(answers[..], [Ok(ReleaseOutcome::Held), Ok(ReleaseOutcome::NotHeld)]), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_held_keeps_no_other_from_being_granted() {
    let server = server();
    let store = open(&server.url()).await;
    let holder = Claim::new(name("job 1"), LONG);
    grant(&store, &holder).await;
    let answers = request_together(&server, &store, &numbered(3)).await;
    assert!(token(&answers[2]) > token(&answers[0]));
    assert_eq!(held_by(&answers[1]).holder, Some(holder.holder()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_and_a_request_of_one_lock_hand_it_over() {
    let server = server();
    let store = open(&server.url()).await;
    let (before, after) = (Claim::new(name("job"), LONG), Claim::new(name("job"), LONG));
    let earlier = grant(&store, &before).await;
    let (released, asked) = batch(&server, &store, &[before], std::slice::from_ref(&after)).await;
    assert!(matches!(released[..], [Ok(ReleaseOutcome::Held)]), "{released:?}");
    assert!(token(&asked[0]) > earlier.number());
    assert_eq!(store.inspect(after.name(), Space::Locks).await.unwrap().pop().unwrap().holder, Some(after.holder()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_releases_what_another_holds() {
    let server = server();
    let store = open(&server.url()).await;
    let held = numbered(2);
    request(&store, &held, &server).await;
    let others = [numbered(1), vec![held[1].clone()]].concat();
    let answers = release_together(&server, &store, &others).await;
    assert!(matches!(answers[..], [Ok(ReleaseOutcome::NotHeld), Ok(ReleaseOutcome::Held)]), "{answers:?}");
    assert!(is_held(&store, "job 0").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_counts_as_held_and_is_not_released() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    server.cli(&["RPUSH", "lock:job 1", "x"]);
    let answers = request_together(&server, &store, &numbered(3)).await;
    assert!(token(&answers[2]) > token(&answers[0]));
    assert_eq!(held_by(&answers[1]).holder, None);
    let answers = release_together(&server, &store, &numbered(3)[1..2]).await;
    assert!(matches!(answers[..], [Ok(ReleaseOutcome::NotHeld)]), "{answers:?}");
    assert_eq!(server.cli(&["LRANGE", "lock:job 1", "0", "-1"]), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_withdrawn_is_refused_and_the_others_are_granted() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let all = numbered(3);
    let tombstone = format!("lock:\u{1f}withdrawn:{}", all[1].holder());
    assert_eq!(server.cli(&["SET", &tombstone, "", "PX", "600000"]), "OK");
    let answers = request_together(&server, &store, &all).await;
    assert!(token(&answers[2]) > token(&answers[0]));
    assert_eq!(answers[1].as_ref().err().unwrap().kind(), ErrorKind::Closed);
    assert!(!is_held(&store, "job 1").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_tell_of_a_release_releases_nothing() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(3);
    for claim in &all {
        grant(&store, claim).await;
    }
    set_rights(&server, &["-publish"]);
    assert_eq!(store.release(&all[0], Duration::ZERO).await.unwrap_err().kind(), ErrorKind::Denied);
    for answer in release_together(&server, &store, &all).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Denied);
    }
    let seen = store.inspect(all[0].name(), Space::Locks).await.unwrap().pop().unwrap();
    let broken = store.break_lock(all[0].name(), &seen, BreakMode::Now).await;
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 3, "all are held as before");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_use_the_commands_for_many_has_them_one_by_one() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    set_rights(&server, &["-mget", "-incrby"]);
    let all = numbered(10);
    let before = calls(&server, "evalsha");
    let tokens: BTreeSet<_> = request(&store, &all, &server).await.iter().map(token).collect();
    assert_eq!(tokens.len(), 10);
    let answers = release_together(&server, &store, &all).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(ReleaseOutcome::Held))), "{answers:?}");
    assert!(calls(&server, "evalsha") - before < 15, "in few calls all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_memory_grants_nothing_and_releases_all() {
    let server = server();
    let store = open(&server.url()).await;
    let held = numbered(5);
    request(&store, &held, &server).await;
    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    let refused = claims((0..5).map(|number| format!("other {number}")));
    for answer in request_together(&server, &store, &refused).await {
        let error = answer.expect_err("it has no memory");
        assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    }
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 5);
    let answers = release_together(&server, &store, &held).await;
    assert!(answers.iter().all(|answer| matches!(answer, Ok(ReleaseOutcome::Held))), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_among_others_wakes_who_waits() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    let held = numbered(3);
    request(&a, &held, &server).await;
    let waiter = tokio::spawn(locks(&b).lock("job 1").wait(LONG).acquire());
    until("a waiter that listens", || server.cli(&["PUBSUB", "CHANNELS"]).contains("lock:job 1").then_some(()));
    release_together(&server, &a, &held).await;
    let served = tokio::time::timeout(WAIT_TIMEOUT, waiter).await.expect("long before the lease would have ended");
    assert!(served.unwrap().unwrap().is_valid());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_from_a_runtime_that_has_ended_keeps_nobody_waiting() {
    let server = server();
    let store = open(&server.url()).await;
    let all = numbered(3);
    server.pause();
    let mut in_flight: Vec<_> = all[..2].iter().map(|claim| Box::pin(store.request(claim))).collect();
    assert!(in_flight.iter_mut().all(|one| one.now_or_never().is_none()));
    let (tell, told) = mpsc::channel();
    std::thread::spawn({
        let (store, claim) = (store.clone(), all[2].clone());
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let ended = runtime.handle().clone();
            drop(runtime);
            let _in_it = ended.enter();
            let _ = tell.send(store.request(&claim).now_or_never());
        }
    });
    let Ok(answer) = told.recv_timeout(WAIT_TIMEOUT) else {
        std::mem::forget(in_flight);
        panic!("it waits for itself");
    };
    let error = answer.expect("nobody can send it").expect_err("nobody can send it");
    assert!(error.is_retryable(), "{error:?}");
    server.resume();
    assert!(join_all(in_flight).await.iter().all(|answer| token(answer) > 0));
    grant(&store, &all[2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_of_a_slot_that_is_on_its_way_are_late_and_no_error() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    let store = open(&format!("{}?response_timeout=60s", cluster.url())).await;
    // All are of one slot.
    let of_slot = |what: &str| claims((0..10).map(|number| format!("{{lock:job}}{what}{number}")));
    let (held, asked) = (of_slot("held"), of_slot("asked"));
    for claim in &held {
        grant(&store, claim).await;
    }
    let moving = cluster.start_slot_migration(cluster.slot_of("lock:job"));
    moving.move_key("lock:{lock:job}held5");
    let all = tokio::spawn(async move {
        let releases = join_all(held.iter().map(|claim| store.release(claim, Duration::ZERO)));
        join(releases, join_all(asked.iter().map(|claim| store.request(claim)))).await
    });
    let owner = cluster.servers().iter().find(|server| server.port() == moving.from).unwrap();
    until("a refusal", || owner.cli(&["INFO", "errorstats"]).contains("TRYAGAIN").then_some(()));
    moving.finish();
    let (released, asked) = tokio::time::timeout(WAIT_TIMEOUT, all).await.expect("they are asked again").unwrap();
    assert!(released.iter().all(|answer| matches!(answer, Ok(ReleaseOutcome::Held))), "{released:?}");
    let tokens: BTreeSet<_> = asked.iter().map(token).collect();
    assert_eq!(tokens.len(), 10);
}
