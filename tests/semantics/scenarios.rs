//! The scenarios.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use leasehold::{
    Attempt, BreakMode, Claim, Clock, ErrorKind, Fence, FencingToken, HeldBy, LockName, LockStore, Locks,
    ReleaseOutcome, RenewalBatch, RenewalOutcome,
};
use lock_conformance::faults::{Faulty, Call, Disturbance};
use lock_testkit::{Proxy, until};

use crate::Verdict;
use crate::bed::Made;
use crate::holder::Holder;

pub(crate) type Run = fn(Made) -> Pin<Box<dyn Future<Output = Verdict>>>;

pub(crate) struct Scenario {
    pub(crate) number: u32,
    pub(crate) what: &'static str,
    pub(crate) run: Run,
}

macro_rules! scenarios {
    ($($number:literal $what:literal $run:ident),* $(,)?) => {
        pub(crate) const SCENARIOS: &[Scenario] =
            &[$(Scenario { number: $number, what: $what, run: |made| Box::pin($run(made)) }),*];
    };
}

scenarios! {
    1 "the holder is paused after its acquire, longer than the TTL" paused_holder,
    2 "the client is paused during its acquire, and the reply waits" late_reply,
    3 "the write is delayed between the check and the write" late_write,
    4 "the wall clock of a holder is a day ahead" clock_ahead,
    5 "the wall clock of a client is a day ahead" client_ahead,
    6 "the holder's process is killed" killed_holder,
    7 "the reply to a request is lost after it was applied" lost_reply,
    8 "a request is applied after its client gave it up" ghost,
    9 "a holder that has expired releases and renews" expired_holder,
    10 "a renewal arrives after the release" late_renewal,
    11 "a waiter is granted after it waited longer than its own TTL" long_wait,
    12 "the holder is cut off from the store, and not from the resource" cut_off_holder,
    13 "the server stands still for longer than the TTL" paused_server,
    14 "the server is killed, and started again on what it kept" restarted_server,
}

const NAME: &str = "the lock";

fn name() -> LockName {
    LockName::new(NAME).unwrap()
}

fn locks(store: Arc<dyn LockStore>) -> Locks {
    Locks::builder_of(store).ttl(Made::TTL).build()
}

/// What becomes of a double hold: the new holder has written, and now the old one does.
async fn old_writes_after(new: &FencingToken, old: &FencingToken) -> Verdict {
    let resource = Fence::in_memory();
    drop(resource.enter(&name(), new).await.unwrap());
    match resource.enter(&name(), old).await {
        Ok(_) => Verdict::Broken,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Fenced);
            Verdict::Fenced
        }
    }
}

async fn paused_holder(made: Made) -> Verdict {
    let mut holder = Holder::start(&made).await;
    holder.pause();
    // While it is paused it believes what it believed: the next grant makes two.
    let next = locks(made.open().await).lock(NAME).acquire().await.unwrap();
    let verdict = old_writes_after(next.token_if_any().unwrap(), &holder.token).await;
    assert!(!holder.resume_and_ask(), "the stale holder is told");
    verdict
}

async fn late_reply(made: Made) -> Verdict {
    let store = Faulty::new(made.open().await);
    store.script(Call::Request, [Disturbance::DelayReply(Made::TTL * 2)]);
    let locks = locks(store);
    let refused = locks.lock(NAME).try_acquire().await.err().map(|error| error.kind());
    locks.close().await;
    let free = made.open().await.inspect(&name()).await.unwrap().is_none();
    if refused == Some(ErrorKind::TimedOut) && free { Verdict::Refused } else { Verdict::Broken }
}

async fn late_write(made: Made) -> Verdict {
    let late = locks(made.open().await).lock(NAME).fixed().acquire().await.unwrap();
    let token = late.token_if_any().unwrap().clone();
    assert!(late.is_valid(), "the check, long before the write");
    let next = locks(made.open().await).lock(NAME).acquire().await.unwrap();
    old_writes_after(next.token_if_any().unwrap(), &token).await
}

async fn clock_ahead(made: Made) -> Verdict {
    let others = locks(made.open().await);
    let holder = Holder::start_a_day_ahead(&made);
    if others.lock(NAME).try_acquire().await.unwrap().is_some() {
        return Verdict::Broken;
    }
    // Its lease ends a TTL after its death, and not a day later.
    holder.kill();
    let next = others.lock(NAME).wait(Made::LONG_TTL * 10).acquire().await;
    assert!(next.is_ok(), "a clock that was ahead pins no lock");
    Verdict::Safe
}

async fn client_ahead(made: Made) -> Verdict {
    let held = locks(made.open().await).lock(NAME).fixed().ttl(Made::TTL * 5).acquire().await.unwrap();
    let ahead = Holder::start_a_day_ahead(&made);
    // It was granted only when the lease before it had ended.
    if held.is_valid() || ahead.token <= *held.token_if_any().unwrap() { Verdict::Broken } else { Verdict::Safe }
}

async fn killed_holder(made: Made) -> Verdict {
    let others = locks(made.open().await);
    let holder = Holder::start_long(&made);
    let token = holder.token.clone();
    holder.kill();
    let survived = others.lock(NAME).try_acquire().await.unwrap().is_none();
    let next = others.lock(NAME).acquire().await.unwrap();
    if survived && *next.token_if_any().unwrap() > token { Verdict::Safe } else { Verdict::Broken }
}

async fn lost_reply(made: Made) -> Verdict {
    let store = Faulty::new(made.open().await);
    store.script(Call::Request, [Disturbance::FailApplied]);
    unknown_and_cleaned_up(made, store).await
}

async fn ghost(made: Made) -> Verdict {
    let store = Faulty::new(made.open().await);
    store.script(Call::Request, [Disturbance::ApplyLate(Made::TTL / 4)]);
    unknown_and_cleaned_up(made, store).await
}

/// A try whose outcome is unknown: nothing of it may be left when its locks have closed.
async fn unknown_and_cleaned_up(made: Made, store: Arc<Faulty>) -> Verdict {
    let locks = locks(store);
    let error = locks.lock(NAME).try_acquire().await.expect_err("the reply was lost");
    locks.close().await;
    let free = made.open().await.inspect(&name()).await.unwrap().is_none();
    if error.may_have_taken_effect() && free { Verdict::Unknown } else { Verdict::Broken }
}

async fn expired_holder(made: Made) -> Verdict {
    let store = made.open().await;
    let expired = Claim::new(name(), Made::TTL);
    assert!(matches!(store.request(&expired).await.unwrap(), Attempt::Granted(_)));
    let next = locks(made.open().await).lock(NAME).acquire().await.unwrap();
    let released = store.release(&expired).await.unwrap();
    let renewed = renew(&*store, &expired).await;
    let holder = store.inspect(&name()).await.unwrap().and_then(|by| by.holder);
    let untouched = holder == Some(next.holder());
    match (released, renewed) {
        (ReleaseOutcome::NotHeld, Some(RenewalOutcome::NotHeld)) if untouched => Verdict::Refused,
        _ => Verdict::Broken,
    }
}

async fn late_renewal(made: Made) -> Verdict {
    let store = made.open().await;
    let released = Claim::new(name(), Made::TTL);
    assert!(matches!(store.request(&released).await.unwrap(), Attempt::Granted(_)));
    store.release(&released).await.unwrap();
    let renewed = renew(&*store, &released).await;
    let free = store.inspect(&name()).await.unwrap().is_none();
    if renewed == Some(RenewalOutcome::NotHeld) && free { Verdict::Refused } else { Verdict::Broken }
}

async fn renew(store: &dyn LockStore, claim: &Claim) -> Option<RenewalOutcome> {
    let batch = RenewalBatch::new(&Clock::system(), [claim.clone()]);
    store.renew(&batch).await;
    batch.iter().next().and_then(|entry| entry.outcome())
}

async fn long_wait(made: Made) -> Verdict {
    let holder = locks(made.open().await).lock(NAME).fixed().ttl(Made::TTL * 3).acquire().await.unwrap();
    let waiting = tokio::spawn(locks(made.open().await).lock(NAME).acquire());
    holder.lost().await;
    drop(holder);
    let guard = waiting.await.unwrap().unwrap();
    let holder = made.open().await.inspect(&name()).await.unwrap().and_then(|by| by.holder);
    if guard.is_valid() && holder == Some(guard.holder()) { Verdict::Refused } else { Verdict::Broken }
}

async fn cut_off_holder(made: Made) -> Verdict {
    let (url, links) = made.linked();
    let mut holder = Holder::start_at(&url);
    links.iter().for_each(Proxy::cut);
    let next = locks(made.open().await).lock(NAME).acquire().await.unwrap();
    // Nobody could tell it; it knows by its own clock.
    if holder.ask() { old_writes_after(next.token_if_any().unwrap(), &holder.token).await } else { Verdict::Refused }
}

async fn paused_server(mut made: Made) -> Verdict {
    let mut holder = Holder::start(&made).await;
    made.server().pause();
    until("the holder is told", || (!holder.ask()).then_some(()));
    made.server().resume();
    let next = locks(made.open().await).lock(NAME).acquire().await.unwrap();
    if *next.token_if_any().unwrap() > holder.token { Verdict::Refused } else { Verdict::Broken }
}

async fn restarted_server(mut made: Made) -> Verdict {
    // Long enough to last through the restart.
    let held = locks(made.open().await).lock(NAME).fixed().ttl(Made::TTL * 60).acquire().await.unwrap();
    made.server().restart();
    let others = locks(made.open().await);
    if let Some(next) = others.lock(NAME).try_acquire().await.unwrap() {
        assert!(held.is_valid(), "the restart took longer than the TTL");
        return old_writes_after(next.token_if_any().unwrap(), held.token_if_any().unwrap()).await;
    }
    let token = held.token_if_any().unwrap().clone();
    made.open().await.break_lock(&name(), &seen(&made).await, BreakMode::Now).await.unwrap();
    let next = others.lock(NAME).acquire().await.unwrap();
    if *next.token_if_any().unwrap() > token { Verdict::Safe } else { Verdict::Broken }
}

async fn seen(made: &Made) -> HeldBy {
    made.open().await.inspect(&name()).await.unwrap().unwrap()
}
