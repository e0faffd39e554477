//! The operations on one file, through stores of one process.

mod fixture;

use std::time::Duration;

use fixture::{Folder, TTL, acquire, claim, expect_held, free, token};
use lock_core::{
    Attempt, BreakMode, Claim, Clock, ErrorKind, Fault, Faults, Guarantees, Holder, LockName, LockStore,
    ReleaseOutcome, RenewalBatch, RenewalOutcome, Space,
};

#[tokio::test]
async fn a_lock_excludes_another_store_on_the_same_file_until_it_is_released() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    let (mine, theirs) = (claim("x"), claim("x"));
    acquire(&a, &mine).await;
    let waiting = expect_held(&b, &theirs).await;
    assert_eq!(waiting.by.holder, Some(mine.holder()));
    assert!(waiting.retry_after <= TTL && waiting.by.remaining.unwrap() <= TTL && !waiting.by.revoked);
    assert_eq!(a.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    assert_eq!(a.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::NotHeld);
    acquire(&b, &theirs).await;
}

#[tokio::test]
async fn asking_again_with_the_same_holder_gives_the_same_token_and_a_full_ttl() {
    let folder = Folder::new();
    let store = folder.open().await;
    let claim = claim("x");
    let first = acquire(&store, &claim).await;
    let remaining =
        || async { store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap().remaining.unwrap() };
    let low = TTL - Duration::from_millis(500);
    folder.until(|| async { remaining().await < low }).await;
    let again = acquire(&store, &claim).await;
    assert_eq!((again.token.clone(), again.ttl), (first.token, TTL));
    assert!(remaining().await > low);
}

#[tokio::test]
async fn tokens_rise_across_release_expiry_and_reopening() {
    let folder = Folder::new();
    let mut last = 0;
    for round in 0..4 {
        let store = folder.open().await;
        for _ in 0..3 {
            let claim = claim("x");
            let number = token(&store, &claim).await;
            assert!(number > last, "round {round}: {number} after {last}");
            last = number;
            store.release(&claim, Duration::ZERO).await.unwrap();
        }
        let short = Claim::new(LockName::new("x").unwrap(), Duration::from_millis(20));
        let number = token(&store, &short).await;
        assert!(number > last);
        last = number;
        folder.until(|| async { free(&store, "x").await }).await;
    }
}

#[tokio::test]
async fn an_expired_lease_cannot_be_renewed_or_released_and_its_holder_starts_anew() {
    let folder = Folder::new();
    let store = folder.open().await;
    let claim = Claim::new(LockName::new("x").unwrap(), Duration::from_millis(20));
    let first = token(&store, &claim).await;
    folder.until(|| async { free(&store, "x").await }).await;
    let batch = RenewalBatch::new(&Clock::system(), [claim.clone()]);
    store.renew(&batch).await.unwrap();
    assert_eq!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::NotHeld));
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::NotHeld);
    assert!(token(&store, &claim).await > first);
}

#[tokio::test]
async fn a_batch_of_renewals_is_answered_one_by_one_in_one_transaction() {
    let folder = Folder::new();
    let store = folder.open().await;
    let claims: Vec<_> = (0..20).map(|n| claim(&format!("r{n}"))).collect();
    for claim in claims.iter().step_by(2) {
        acquire(&store, claim).await;
    }
    let before = store.commits();
    let batch = RenewalBatch::new(&Clock::system(), claims);
    store.renew(&batch).await.unwrap();
    assert_eq!(store.commits(), before + 1);
    for (at, entry) in batch.iter().enumerate() {
        let expected = if at % 2 == 0 { RenewalOutcome::HeldFor(TTL) } else { RenewalOutcome::NotHeld };
        assert_eq!(entry.outcome(), Some(expected), "{at}");
    }
}

#[tokio::test]
async fn a_request_for_a_held_lock_writes_nothing() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    acquire(&a, &claim("x")).await;
    let before = folder.data_version_probe();
    let waiter = claim("x");
    for _ in 0..5 {
        expect_held(&b, &waiter).await;
        expect_held(&b, &claim("x")).await;
    }
    assert_eq!(b.commits(), 0);
    assert!(!before.has_changed());
}

#[tokio::test]
async fn nobody_else_can_release_or_renew_a_lease() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (mine, stranger) = (claim("x"), claim("x"));
    acquire(&store, &mine).await;
    assert_eq!(store.release(&stranger, Duration::ZERO).await.unwrap(), ReleaseOutcome::NotHeld);
    let batch = RenewalBatch::new(&Clock::system(), [stranger]);
    store.renew(&batch).await.unwrap();
    assert_eq!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::NotHeld));
    assert_eq!(store.inspect(mine.name(), Space::Locks).await.unwrap().pop().unwrap().holder, Some(mine.holder()));
}

#[tokio::test]
async fn a_revoked_name_stays_blocked_and_uses_up_a_token() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    let first = token(&store, &mine).await;
    let seen = store.inspect(mine.name(), Space::Locks).await.unwrap().pop().unwrap();
    let broken = store.break_lock(mine.name(), &seen, BreakMode::Revoke).await.unwrap().unwrap();
    assert_eq!(broken.evicted.holder, Some(mine.holder()));
    assert_eq!(broken.token.unwrap().number(), first + 1);
    assert!(broken.free_in > Duration::ZERO && broken.free_in <= TTL);
    let by = expect_held(&store, &claim("x")).await.by;
    assert!(by.revoked && by.holder != Some(mine.holder()));
    // The evicted holder is not granted either, and has nothing to renew.
    expect_held(&store, &mine).await;
    let batch = RenewalBatch::new(&Clock::system(), [mine.clone()]);
    store.renew(&batch).await.unwrap();
    assert_eq!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::NotHeld));
    assert!(store.break_lock(mine.name(), &seen, BreakMode::Now).await.unwrap().is_none(), "the holder seen is gone");
    let broken = store.break_lock(mine.name(), &by, BreakMode::Now).await.unwrap().unwrap();
    assert_eq!(broken.token.unwrap().number(), first + 2);
    assert_eq!(token(&store, &claim("x")).await, first + 3);
}

#[tokio::test]
async fn a_lock_that_is_broken_now_is_free_at_once() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    let first = token(&store, &mine).await;
    let seen = store.inspect(mine.name(), Space::Locks).await.unwrap().pop().unwrap();
    let broken = store.break_lock(mine.name(), &seen, BreakMode::Now).await.unwrap().unwrap();
    assert_eq!((broken.token.unwrap().number(), broken.free_in), (first + 1, Duration::ZERO));
    assert_eq!(token(&store, &claim("x")).await, first + 2);
    assert_eq!(store.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::NotHeld);
}

#[tokio::test]
async fn held_locks_are_listed_in_the_byte_order_of_their_names_page_by_page() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mut names = ["b", "a", "B", "é", "e\u{301}", "a/b", "a b", "☃", "Z", "zz"];
    for name in names {
        acquire(&store, &claim(name)).await;
    }
    let released = claim("c");
    acquire(&store, &released).await;
    store.release(&released, Duration::ZERO).await.unwrap();
    names.sort_unstable();
    let mut found = Vec::new();
    let mut after: Option<LockName> = None;
    loop {
        let page = store.list(Space::Locks, after.as_ref(), 3).await.unwrap();
        assert!(page.len() <= 3);
        let Some((last, holders)) = page.last() else { break };
        let by = &holders[0];
        assert!(by.holder.is_some() && by.token.is_some() && by.info.is_some());
        after = Some(last.clone());
        found.extend(page.into_iter().map(|(name, _)| name.as_str().to_owned()));
    }
    assert_eq!(found, names);
    assert_eq!(store.list(Space::Locks, None, usize::MAX).await.unwrap().len(), names.len());
}

#[tokio::test]
async fn hostile_names_are_only_names() {
    let folder = Folder::new();
    let store = folder.open().await;
    let long = "ü".repeat(256);
    let names = [
        "'; drop table lease; --",
        "%",
        "_",
        "\"",
        "'",
        "`",
        "\\",
        "?1",
        ":a",
        "..",
        "/",
        "//",
        "a",
        "A",
        "a ",
        " a",
        "ａ",
        "é",
        "e\u{301}",
        "null",
        "0",
        "0.0",
        "1e1000",
        "\u{200b}",
        "\u{1f512}",
        &long,
    ];
    let mut claims = Vec::new();
    for name in names {
        let claim = claim(name);
        acquire(&store, &claim).await;
        claims.push(claim);
    }
    for claim in &claims {
        let by = store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap();
        assert_eq!(by.holder, Some(claim.holder()), "{}", claim.name());
    }
    assert_eq!(store.list(Space::Locks, None, 1000).await.unwrap().len(), names.len());
    for claim in &claims {
        assert_eq!(store.release(claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    }
}

#[tokio::test]
async fn a_new_realm_is_seen_by_every_open_store() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    let old = a.realm();
    assert_eq!(b.realm(), old);
    assert!(old.as_str().starts_with("sqlite:"));
    let new = a.new_realm().await.unwrap();
    assert!(new != old && a.realm() == new);
    let lease = acquire(&b, &claim("x")).await;
    assert_eq!(*lease.token.unwrap().realm(), new);
    assert_eq!(b.realm(), new);
    assert_eq!(folder.open().await.realm(), new);
}

#[tokio::test]
async fn pruning_keeps_tokens_rising_and_the_file_small() {
    const NAMES: usize = 12_000;
    let folder = Folder::new();
    let store = std::sync::Arc::new(folder.open().await);
    // One name is held all the time, and one has a high token.
    let kept = Claim::new(LockName::new("kept").unwrap(), Duration::from_secs(3600));
    let kept_token = token(&store, &kept).await;
    let mut high = 0;
    for _ in 0..50 {
        let claim = claim("high");
        high = token(&store, &claim).await;
        store.release(&claim, Duration::ZERO).await.unwrap();
    }
    for chunk in 0..NAMES / 500 {
        let once = (0..500).map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let claim = claim(&format!("once-{chunk}-{n}"));
                acquire(&store, &claim).await;
                store.release(&claim, Duration::ZERO).await.unwrap();
            })
        });
        for task in once.collect::<Vec<_>>() {
            task.await.unwrap();
        }
    }
    let rows = folder.number("select count(*) from lease");
    assert!((5_000..=10_001).contains(&rows), "{rows}");
    assert_eq!(rows, folder.number("select rows from lease_floor"));
    let by = store.inspect(kept.name(), Space::Locks).await.unwrap().pop().unwrap();
    assert_eq!((by.holder, by.token.unwrap().number()), (Some(kept.holder()), kept_token));
    assert_eq!(folder.number("select count(*) from lease where name = 'high'"), 0, "it was swept");
    assert!(token(&store, &claim("high")).await > high);
}

#[tokio::test]
async fn many_requests_at_once_share_transactions() {
    let folder = Folder::new();
    let store = std::sync::Arc::new(folder.open().await);
    let requests = 400;
    let tasks: Vec<_> = (0..requests)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { token(&store, &claim(&format!("g{n}"))).await })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap() > 0);
    }
    assert!(store.commits() * 4 <= requests, "{} transactions for {requests} requests", store.commits());
    assert_eq!(store.list(Space::Locks, None, 1000).await.unwrap().len(), requests as usize);
}

#[tokio::test]
async fn a_renewal_is_done_before_the_crowd_of_requests_that_waits() {
    let folder = Folder::new();
    let store = folder.open().await;
    let held = claim("held");
    acquire(&store, &held).await;
    let batch = RenewalBatch::new(&Clock::system(), [held]);
    let crowd: Vec<_> = (0..2_000).map(|number| claim(&format!("crowd {number}"))).collect();
    // While another program writes, all of them wait.
    let writer = folder.writer();
    let mut requests: Vec<_> = crowd.iter().map(|claim| store.request(claim)).collect();
    for request in &mut requests {
        assert!(is_pending(request.as_mut()).await);
    }
    let mut renewal = store.renew(&batch);
    assert!(is_pending(renewal.as_mut()).await);
    drop(writer);
    renewal.await.unwrap();
    assert!(matches!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(_))));
    for request in requests {
        assert!(matches!(request.await.unwrap(), Attempt::Granted(_)));
    }
    // All of one transaction is judged at one moment.
    let expires_at = |name: &str| folder.number(&format!("select expires_at from lease where name = '{name}'"));
    assert!(expires_at("held") < expires_at("crowd 1999"), "it was done in an earlier transaction");
}

#[tokio::test]
async fn a_lone_step_costs_one_transaction() {
    let folder = Folder::new();
    let store = folder.open().await;
    let claim = claim("x");
    acquire(&store, &claim).await;
    assert_eq!(store.commits(), 1);
    store.release(&claim, Duration::ZERO).await.unwrap();
    assert_eq!(store.commits(), 2);
    store.inspect(claim.name(), Space::Locks).await.unwrap();
    store.list(Space::Locks, None, 1).await.unwrap();
    store.release(&claim, Duration::ZERO).await.unwrap();
    assert_eq!(store.commits(), 2, "what changes nothing writes nothing");
}

#[tokio::test]
async fn a_request_that_is_dropped_before_its_turn_takes_no_effect_and_a_later_release_finds_what_one_did() {
    let folder = Folder::new();
    let store = folder.open().await;
    // While another program writes, the request waits.
    let writer = folder.writer();
    let dropped = claim("dropped");
    {
        let mut request = std::pin::pin!(store.request(&dropped));
        assert!(is_pending(request.as_mut()).await);
    }
    drop(writer);
    acquire(&store, &claim("other")).await;
    assert!(free(&store, "dropped").await);

    // A request that has run is found by the release that follows it.
    for round in 0..50 {
        let claim = claim(&format!("race-{round}"));
        {
            let mut request = std::pin::pin!(store.request(&claim));
            is_pending(request.as_mut()).await;
        }
        store.release(&claim, Duration::ZERO).await.unwrap();
        assert!(free(&store, claim.name().as_str()).await);
    }
}

/// Polls once; returns whether the future is still pending.
async fn is_pending<F: Future + ?Sized>(mut future: std::pin::Pin<&mut F>) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_pending())).await
}

#[tokio::test]
async fn a_busy_file_is_unavailable_after_the_busy_timeout_and_nothing_was_changed() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.busy_timeout = Duration::from_millis(50);
    let store = lock_sqlite::SqliteStore::open(config).await.unwrap();
    let mine = claim("mine");
    acquire(&store, &mine).await;
    let writer = folder.writer();
    let error = store.request(&claim("x")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!error.may_have_taken_effect() && error.is_retryable());
    assert!(error.to_string().contains("locks.db"), "{error}");
    let batch = RenewalBatch::new(&Clock::system(), [mine.clone()]);
    let failure = store.renew(&batch).await.unwrap_err();
    assert_eq!(batch.iter().next().unwrap().outcome(), None);
    assert_eq!(failure.kind(), ErrorKind::Unavailable);
    // Operations that only read still work: inspecting, listing, and requesting a held lock.
    assert_eq!(store.inspect(mine.name(), Space::Locks).await.unwrap().pop().unwrap().holder, Some(mine.holder()));
    expect_held(&store, &claim("mine")).await;
    drop(writer);
    acquire(&store, &claim("x")).await;
}

#[tokio::test]
async fn a_waiter_wakes_when_another_store_releases() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    let (mine, theirs) = (claim("x"), claim("x"));
    acquire(&a, &mine).await;
    let waiting = expect_held(&b, &theirs).await;
    // A change between the request and the wait is not missed.
    a.release(&mine, Duration::ZERO).await.unwrap();
    within(b.wait(&theirs, &waiting)).await.unwrap();
    acquire(&b, &theirs).await;
    // And a later change wakes a waiter.
    let waiting = expect_held(&a, &mine).await;
    let (waited, released) =
        within(async { tokio::join!(a.wait(&mine, &waiting), b.release(&theirs, Duration::ZERO)) }).await;
    waited.unwrap();
    assert_eq!(released.unwrap(), ReleaseOutcome::Held);
    acquire(&a, &mine).await;
}

#[tokio::test]
async fn a_waiter_wakes_when_its_own_store_releases_or_breaks() {
    let folder = Folder::new();
    let store = folder.open().await;
    let (mine, waiter) = (claim("x"), claim("x"));
    acquire(&store, &mine).await;
    let waiting = expect_held(&store, &waiter).await;
    let (waited, _) =
        within(async { tokio::join!(store.wait(&waiter, &waiting), store.release(&mine, Duration::ZERO)) }).await;
    waited.unwrap();
    acquire(&store, &mine).await;
    let waiting = expect_held(&store, &waiter).await;
    let seen = waiting.by.clone();
    let broken = store.break_lock(mine.name(), &seen, BreakMode::Now);
    let (waited, broken) = within(async { tokio::join!(store.wait(&waiter, &waiting), broken) }).await;
    waited.unwrap();
    assert!(broken.unwrap().is_some());
}

#[tokio::test]
async fn a_wait_pends_while_nothing_changes() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    let waiter = claim("x");
    let waiting = expect_held(&store, &waiter).await;
    let waited = tokio::time::timeout(Duration::from_millis(100), store.wait(&waiter, &waiting)).await;
    assert!(waited.is_err(), "nothing changed, and it ended");
}

#[tokio::test]
async fn a_file_that_is_removed_or_replaced_while_in_use_is_noticed() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    std::fs::rename(folder.path(), folder.path().with_extension("moved")).unwrap();
    let error = store.request(&claim("y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("removed or replaced") && !error.may_have_taken_effect(), "{error}");
    assert_eq!(store.inspect(claim("x").name(), Space::Locks).await.unwrap_err().kind(), ErrorKind::InvalidConfig);
    // Another file in its place has other leases.
    let new = folder.open().await;
    acquire(&new, &claim("x")).await;
    assert!(store.request(&claim("x")).await.is_err());
}

#[tokio::test]
async fn what_no_program_of_ours_wrote_is_a_protocol_error_and_stays_as_it_is() {
    for damage in [
        "update lease set token = -1",
        "update lease set holder = x'00'",
        "update lease set expires_at = -5",
        "update lease set since = -5",
        "update lease set boot = null",
    ] {
        let folder = Folder::new();
        let store = folder.open().await;
        let mine = claim("x");
        acquire(&store, &mine).await;
        folder.write(damage);
        let error = store.request(&claim("x")).await.unwrap_err();
        assert_eq!((error.kind(), error.may_have_taken_effect()), (ErrorKind::Protocol, false), "{damage}: {error}");
        assert_eq!(store.inspect(mine.name(), Space::Locks).await.unwrap_err().kind(), ErrorKind::Protocol, "{damage}");
        acquire(&store, &claim("another name")).await;
    }
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    acquire(&store, &mine).await;
    store.release(&mine, Duration::ZERO).await.unwrap();
    folder.write("update lease set token = 9223372036854775807");
    assert_eq!(store.request(&mine).await.unwrap_err().kind(), ErrorKind::Protocol);
    folder.write("update lease_floor set floor = 9223372036854775807");
    assert_eq!(store.request(&claim("new")).await.unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(folder.number("select count(*) from lease"), 1);
    folder.write("update lease_floor set floor = -7");
    assert_eq!(store.request(&claim("new")).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn the_guarantees_are_those_of_a_disk_and_enough_for_correctness() {
    let folder = Folder::on_disk();
    let store = folder.open().await;
    let promised = store.guarantees();
    assert_eq!(promised.shortfalls(&Guarantees::FOR_CORRECTNESS), []);
    let records = Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::ClockStep, Fault::Pause]);
    assert_eq!(promised.records_survive, records);
    assert!(!promised.tokens_survive.unwrap().contains(Fault::Restore.into()));
}

#[tokio::test]
async fn a_file_in_memory_does_not_promise_to_survive_a_power_loss() {
    let folder = Folder::in_memory();
    let promised = folder.open().await.guarantees();
    assert!(!promised.records_survive.contains(Fault::PowerLoss.into()));
    assert!(!promised.tokens_survive.unwrap().contains(Fault::PowerLoss.into()));
    assert!(promised.tokens_survive.unwrap().contains(Fault::Crash.into()));
}

#[tokio::test]
async fn debug_shows_the_path_only() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("a-name")).await;
    assert_eq!(format!("{store:?}"), format!("SqliteStore {{ path: {:?}, .. }}", folder.path()));
}

#[tokio::test]
async fn a_dropped_store_closes_its_file() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    drop(store);
    // The last connection of a file removes its log when it closes.
    let log = folder.path().with_extension("db-wal");
    folder.until(|| async { !log.exists() }).await;
}

#[tokio::test]
async fn a_closed_store_leaves_one_file_and_opens_it_again_for_what_comes() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    let first = token(&store, &mine).await;
    let log = folder.path().with_extension("db-wal");
    assert!(log.exists());
    for _ in 0..2 {
        store.close().await;
        assert!(!log.exists() && !log.with_extension("db-shm").exists());
    }
    let by = expect_held(&store, &claim("x")).await.by;
    assert_eq!((by.holder, by.token.unwrap().number()), (Some(mine.holder()), first));
    assert_eq!(store.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    store.close().await;
    // While it is closed nobody watches the file; the next operation reports the error.
    std::fs::rename(folder.path(), folder.path().with_extension("moved")).unwrap();
    let error = store.request(&mine).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(!folder.path().exists(), "no other file is made in its place");
}

#[tokio::test]
async fn a_store_that_somebody_else_uses_too_is_closed_without_harm() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    let mine = claim("x");
    acquire(&b, &mine).await;
    a.close().await;
    assert_eq!(b.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    acquire(&a, &mine).await;
}

#[tokio::test]
async fn a_waiter_keeps_its_store_open() {
    let folder = Folder::new();
    let (a, b) = (folder.open().await, folder.open().await);
    let (mine, theirs) = (claim("x"), claim("x"));
    acquire(&a, &mine).await;
    let waiting = expect_held(&b, &theirs).await;
    let (waited, ()) = within(async {
        tokio::join!(b.wait(&theirs, &waiting), async {
            b.close().await;
            a.release(&mine, Duration::ZERO).await.unwrap();
        })
    })
    .await;
    waited.unwrap();
}

#[tokio::test]
async fn a_lease_in_a_file_that_is_removed_is_not_held_at_once() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    acquire(&store, &mine).await;
    std::fs::remove_file(folder.path()).unwrap();
    let batch = RenewalBatch::new(&Clock::system(), [mine]);
    let failure = store.renew(&batch).await.unwrap_err().to_string();
    assert_eq!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::NotHeld));
    assert!(failure.contains("locks.db was removed or replaced"), "{failure}");
}

#[tokio::test]
async fn a_waiter_notices_that_the_file_is_gone() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    let waiter = claim("x");
    let waiting = expect_held(&store, &waiter).await;
    std::fs::remove_file(folder.path()).unwrap();
    within(store.wait(&waiter, &waiting)).await.unwrap();
    assert_eq!(store.request(&waiter).await.unwrap_err().kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn holder_information_travels_with_the_lease() {
    let folder = Folder::new();
    let locks =
        lock_core::Locks::builder_of(std::sync::Arc::new(folder.open().await)).holder_info("nightly'\"\\").build();
    let guard = locks.lock("x").acquire().await.unwrap();
    let by = folder.open().await.inspect(guard.name(), Space::Locks).await.unwrap().pop().unwrap();
    let info = by.info.unwrap();
    assert_eq!((info.pid, info.text.as_str()), (std::process::id(), "nightly'\"\\"));
    assert_ne!(by.holder, Some(Holder::from_u128(0)));
    guard.release().await.unwrap();
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it ends in time")
}

#[tokio::test]
async fn an_attempt_says_who_holds_it_and_for_how_long() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    let lease = acquire(&store, &mine).await;
    let Attempt::Held(waiting) = store.request(&claim("x")).await.unwrap() else { panic!("it is held") };
    assert_eq!(waiting.by.token, lease.token);
    assert_eq!(waiting.by.info.as_ref(), Some(mine.info()));
    assert!(waiting.by.held_for.unwrap() < TTL);
}
