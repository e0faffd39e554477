//! Requests and releases that come at the same time.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};

use futures_util::FutureExt as _;
use futures_util::future::{join, join_all};
use lock_core::{Attempt, BreakMode, Claim, ErrorKind, HeldBy, LockStore, ReleaseOutcome, Result};
use lock_redis::RedisStore;
use lock_testkit::{WAIT_TIMEOUT, RedisCluster, RedisServer, until};

use crate::bed::{LONG, calls, grant, is_held, locks, name, open, server};

fn claims(names: impl IntoIterator<Item = String>) -> Vec<Claim> {
    names.into_iter().map(|text| Claim::new(name(&text), LONG)).collect()
}

fn numbered(count: usize) -> Vec<Claim> {
    claims((0..count).map(|number| format!("job {number}")))
}

/// All of this while the server stands still, so that it comes at the same time.
async fn at_once<T>(server: &RedisServer, all: impl Future<Output = T>) -> T {
    let mut all = Box::pin(all);
    server.pause();
    tokio::select! {
        biased;
        _ = &mut all => panic!("a server that stands still answers nobody"),
        () = tokio::task::yield_now() => {}
    }
    server.resume();
    all.await
}

async fn request(store: &Arc<RedisStore>, claims: &[Claim], server: &RedisServer) -> Vec<Result<Attempt>> {
    at_once(server, join_all(claims.iter().map(|claim| store.request(claim)))).await
}

/// The answers to releases and requests that travel in one call, behind others that are under way and change nothing.
async fn batch(
    server: &RedisServer,
    store: &Arc<RedisStore>,
    released: &[Claim],
    asked: &[Claim],
) -> (Vec<Result<ReleaseOutcome>>, Vec<Result<Attempt>>) {
    let ahead = claims(["ahead".to_owned(), "also ahead".to_owned()]);
    let releases = ahead.iter().chain(released).map(|claim| store.release(claim));
    let requests = asked.iter().map(|claim| store.request(claim));
    let before = calls(server, "evalsha");
    let (mut releases, requests) = at_once(server, join(join_all(releases), join_all(requests))).await;
    assert!(calls(server, "evalsha") > before + 2, "two, and those that waited for them");
    (releases.split_off(ahead.len()), requests)
}

async fn ask_together(server: &RedisServer, store: &Arc<RedisStore>, asked: &[Claim]) -> Vec<Result<Attempt>> {
    batch(server, store, &[], asked).await.1
}

async fn release_together(
    server: &RedisServer,
    store: &Arc<RedisStore>,
    released: &[Claim],
) -> Vec<Result<ReleaseOutcome>> {
    batch(server, store, released, &[]).await.0
}

fn counter(server: &RedisServer) -> String {
    server.cli(&["--scan", "--pattern", "*token*"])
}

fn set_counter(server: &RedisServer, number: u64) {
    assert_eq!(server.cli(&["SET", &counter(server), &number.to_string()]), "OK");
}

fn held_by(attempt: &Result<Attempt>) -> &HeldBy {
    match attempt {
        Ok(Attempt::Held(waiting)) => &waiting.by,
        other => panic!("it must be held: {other:?}"),
    }
}

fn set_rights(server: &RedisServer, rules: &[&str]) {
    assert_eq!(server.cli(&[&["ACL", "SETUSER", "default"], rules].concat()), "OK");
}

fn token(attempt: &Result<Attempt>) -> u64 {
    match attempt {
        Ok(Attempt::Granted(lease)) => lease.token.as_ref().unwrap().number(),
        other => panic!("it must be free: {other:?}"),
    }
}

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
    let released = at_once(&server, join_all(all.iter().map(|claim| store.release(claim)))).await;
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
        assert_eq!(store.release(&claim).await.unwrap(), ReleaseOutcome::Held);
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
        store.release(claim).await.unwrap();
    }
    assert_eq!(store.list(None, 100).await.unwrap().len(), 0);
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
    let answers = ask_together(&server, &store, &numbered(20)).await;
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
    let answers = ask_together(&server, &store, &all).await;
    assert!(token(&answers[1]) > token(&answers[0]));
    assert_eq!(held_by(&answers[2]).holder, Some(all[0].holder()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_asked_for_twice_has_one_token() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let claim = Claim::new(name("job"), LONG);
    let answers = ask_together(&server, &store, &[claim.clone(), claim]).await;
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
    let answers = ask_together(&server, &store, &numbered(3)).await;
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
    assert_eq!(store.inspect(after.name()).await.unwrap().unwrap().holder, Some(after.holder()));
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
    let answers = ask_together(&server, &store, &numbered(3)).await;
    assert!(token(&answers[2]) > token(&answers[0]));
    assert_eq!(held_by(&answers[1]).holder, None);
    let answers = release_together(&server, &store, &numbered(3)[1..2]).await;
    assert!(matches!(answers[..], [Ok(ReleaseOutcome::NotHeld)]), "{answers:?}");
    assert_eq!(server.cli(&["LRANGE", "lock:job 1", "0", "-1"]), "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_rise_and_none_is_given_twice_where_a_scripts_numbers_end() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    const EXACT: u64 = 1 << 53;
    for before in [EXACT - 30, EXACT - 5, EXACT + 20, EXACT + 99] {
        set_counter(&server, before);
        let all = numbered(10);
        let tokens: Vec<_> = ask_together(&server, &store, &all).await.iter().map(token).collect();
        assert_eq!(tokens, (before + 1..=before + 10).collect::<Vec<_>>());
        release_together(&server, &store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_tokens_that_there_are_are_given_once() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    const LAST: u64 = i64::MAX as u64;
    set_counter(&server, LAST - 2);
    let answers = ask_together(&server, &store, &numbered(4)).await;
    assert_eq!(answers[..2].iter().map(token).collect::<Vec<_>>(), [LAST - 1, LAST]);
    for answer in &answers[2..] {
        assert!(answer.as_ref().is_err_and(|error| !error.may_have_taken_effect()), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_fell_back_is_raised_above_what_was_seen() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    set_counter(&server, 99);
    assert_eq!(grant(&store, &Claim::new(name("second"), LONG)).await.number(), 100);
    for fallen_by in [90, 2] {
        let known: u64 = server.cli(&["GET", &counter(&server)]).parse().unwrap();
        set_counter(&server, known - fallen_by);
        let all = numbered(5);
        let tokens: Vec<_> = ask_together(&server, &store, &all).await.iter().map(token).collect();
        assert_eq!(tokens, (known + 1..=known + 5).collect::<Vec<_>>(), "it fell by {fallen_by}");
        release_together(&server, &store, &all).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_counter_that_is_new_begins_with_many_at_once() {
    let server = server();
    let store = open(&server.url()).await;
    let answers = ask_together(&server, &store, &numbered(10)).await;
    let tokens: BTreeSet<_> = answers.iter().map(token).collect();
    assert_eq!(tokens, (1..=10).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_learn_of_a_new_realm_at_once() {
    let server = server();
    let (store, other) = (open(&server.url()).await, open(&server.url()).await);
    let before = grant(&store, &Claim::new(name("first"), LONG)).await;
    let realm = other.new_realm().await.unwrap();
    for answer in ask_together(&server, &store, &numbered(5)).await {
        assert!(token(&answer) > before.number());
        let Ok(Attempt::Granted(lease)) = answer else { unreachable!() };
        assert_eq!(lease.token.unwrap().realm(), &realm);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_that_ask_for_many_at_once_share_no_token() {
    let server = server();
    let (a, b) = (open(&server.url()).await, open(&server.url()).await);
    grant(&a, &Claim::new(name("first"), LONG)).await;
    let all = numbered(100);
    let both = all.iter().enumerate().map(|(at, claim)| if at % 2 == 0 { a.request(claim) } else { b.request(claim) });
    let tokens: BTreeSet<_> = at_once(&server, join_all(both)).await.iter().map(token).collect();
    assert_eq!(tokens.len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_was_withdrawn_is_refused_and_the_others_are_granted() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    let all = numbered(3);
    let mark = format!("lock:\u{1f}withdrawn:{}", all[1].holder());
    assert_eq!(server.cli(&["SET", &mark, "", "PX", "600000"]), "OK");
    let answers = ask_together(&server, &store, &all).await;
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
    assert_eq!(store.release(&all[0]).await.unwrap_err().kind(), ErrorKind::Denied);
    for answer in release_together(&server, &store, &all).await {
        assert_eq!(answer.unwrap_err().kind(), ErrorKind::Denied);
    }
    let seen = store.inspect(all[0].name()).await.unwrap().unwrap();
    let broken = store.break_lock(all[0].name(), &seen, BreakMode::Now).await;
    assert_eq!(broken.unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(store.list(None, 10).await.unwrap().len(), 3, "all are held as before");
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
    for answer in ask_together(&server, &store, &refused).await {
        let error = answer.expect_err("it has no memory");
        assert!(error.kind() == ErrorKind::Unavailable && !error.may_have_taken_effect(), "{error:?}");
    }
    assert_eq!(store.list(None, 10).await.unwrap().len(), 5);
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
    let mut under_way: Vec<_> = all[..2].iter().map(|claim| Box::pin(store.request(claim))).collect();
    assert!(under_way.iter_mut().all(|one| one.now_or_never().is_none()));
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
        std::mem::forget(under_way);
        panic!("it waits for itself");
    };
    let error = answer.expect("nobody can send it").expect_err("nobody can send it");
    assert!(error.is_retryable(), "{error:?}");
    server.resume();
    assert!(join_all(under_way).await.iter().all(|answer| token(answer) > 0));
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
        let releases = join_all(held.iter().map(|claim| store.release(claim)));
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
