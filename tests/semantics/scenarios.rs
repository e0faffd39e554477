//! The scenarios of the table.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use leasehold::store::{Attempt, Claim, LockStore, ReleaseOutcome, RenewalBatch, RenewalOutcome, Space};
use leasehold::{BreakMode, Clock, ErrorKind, Fence, FencingToken, HeldBy, LockName, Locks};
use lock_conformance::faults::{Call, Disturbance, Faulty};
use lock_testkit::{Proxy, until};

use crate::Verdict;
use crate::fixture::Deployment;
use crate::holder::Holder;

pub(crate) type Run = fn(Deployment) -> Pin<Box<dyn Future<Output = Verdict>>>;

pub(crate) struct Scenario {
    pub(crate) number: u32,
    pub(crate) what: &'static str,
    pub(crate) run: Run,
}

macro_rules! scenarios {
    ($($number:literal $what:literal $run:ident),* $(,)?) => {
        pub(crate) const SCENARIOS: &[Scenario] =
            &[$(Scenario { number: $number, what: $what, run: |deployment| Box::pin($run(deployment)) }),*];
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
    8 "a request is applied after its client gave it up" late_request,
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
    Locks::builder_of(store).ttl(Deployment::TTL).build()
}

/// The verdict on a double hold: the new holder has written, and now the old one writes.
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

async fn paused_holder(deployment: Deployment) -> Verdict {
    let mut holder = Holder::start(&deployment).await;
    holder.pause();
    // A paused holder keeps its belief: the next grant makes two holders.
    let next = locks(deployment.open().await).lock(NAME).acquire().await.unwrap();
    let verdict = old_writes_after(next.token_if_any().unwrap(), &holder.token).await;
    assert!(!holder.resume_and_ask(), "the stale holder is told");
    verdict
}

async fn late_reply(deployment: Deployment) -> Verdict {
    let store = Faulty::new(deployment.open().await);
    store.script(Call::Request, [Disturbance::DelayReply(Deployment::TTL * 2)]);
    let locks = locks(store);
    let refused = locks.lock(NAME).try_acquire().await.err().map(|error| error.kind());
    locks.close().await;
    let free = deployment.open().await.inspect(&name(), Space::Locks).await.unwrap().is_empty();
    if refused == Some(ErrorKind::TimedOut) && free { Verdict::Refused } else { Verdict::Broken }
}

async fn late_write(deployment: Deployment) -> Verdict {
    let late = locks(deployment.open().await).lock(NAME).fixed().acquire().await.unwrap();
    let token = late.token_if_any().unwrap().clone();
    assert!(late.is_valid(), "the check, long before the write");
    let next = locks(deployment.open().await).lock(NAME).acquire().await.unwrap();
    old_writes_after(next.token_if_any().unwrap(), &token).await
}

async fn clock_ahead(deployment: Deployment) -> Verdict {
    let others = locks(deployment.open().await);
    let holder = Holder::start_a_day_ahead(&deployment);
    if others.lock(NAME).try_acquire().await.unwrap().is_some() {
        return Verdict::Broken;
    }
    // Its lease ends one TTL after its death, and not a day later.
    holder.kill();
    let next = others.lock(NAME).wait(Deployment::LONG_TTL * 10).acquire().await;
    assert!(next.is_ok(), "a clock that was ahead pins no lock");
    Verdict::Safe
}

async fn client_ahead(deployment: Deployment) -> Verdict {
    let held = locks(deployment.open().await).lock(NAME).fixed().ttl(Deployment::TTL * 5).acquire().await.unwrap();
    let ahead = Holder::start_a_day_ahead(&deployment);
    // It was granted only when the lease before it had ended.
    if held.is_valid() || ahead.token <= *held.token_if_any().unwrap() { Verdict::Broken } else { Verdict::Safe }
}

async fn killed_holder(deployment: Deployment) -> Verdict {
    let others = locks(deployment.open().await);
    let holder = Holder::start_long(&deployment);
    let token = holder.token.clone();
    holder.kill();
    let survived = others.lock(NAME).try_acquire().await.unwrap().is_none();
    let next = others.lock(NAME).acquire().await.unwrap();
    if survived && *next.token_if_any().unwrap() > token { Verdict::Safe } else { Verdict::Broken }
}

async fn lost_reply(deployment: Deployment) -> Verdict {
    let store = Faulty::new(deployment.open().await);
    store.script(Call::Request, [Disturbance::FailApplied]);
    unknown_and_cleaned_up(deployment, store).await
}

async fn late_request(deployment: Deployment) -> Verdict {
    let store = Faulty::new(deployment.open().await);
    store.script(Call::Request, [Disturbance::ApplyLate(Deployment::TTL / 4)]);
    unknown_and_cleaned_up(deployment, store).await
}

/// Tries with an unknown outcome: nothing may be left when the locks have closed.
async fn unknown_and_cleaned_up(deployment: Deployment, store: Arc<Faulty>) -> Verdict {
    let locks = locks(store);
    let error = locks.lock(NAME).try_acquire().await.expect_err("the reply was lost");
    locks.close().await;
    let free = deployment.open().await.inspect(&name(), Space::Locks).await.unwrap().is_empty();
    if error.may_have_taken_effect() && free { Verdict::Unknown } else { Verdict::Broken }
}

async fn expired_holder(deployment: Deployment) -> Verdict {
    let store = deployment.open().await;
    let expired = Claim::new(name(), Deployment::TTL);
    assert!(matches!(store.request(&expired).await.unwrap(), Attempt::Granted(_)));
    let next = locks(deployment.open().await).lock(NAME).acquire().await.unwrap();
    let released = store.release(&expired, Duration::ZERO).await.unwrap();
    let renewed = renew(&*store, &expired).await;
    let holder = store.inspect(&name(), Space::Locks).await.unwrap().pop().and_then(|by| by.holder);
    let untouched = holder == Some(next.holder());
    match (released, renewed) {
        (ReleaseOutcome::NotHeld, Some(RenewalOutcome::NotHeld)) if untouched => Verdict::Refused,
        _ => Verdict::Broken,
    }
}

async fn late_renewal(deployment: Deployment) -> Verdict {
    let store = deployment.open().await;
    let released = Claim::new(name(), Deployment::TTL);
    assert!(matches!(store.request(&released).await.unwrap(), Attempt::Granted(_)));
    store.release(&released, Duration::ZERO).await.unwrap();
    let renewed = renew(&*store, &released).await;
    let free = store.inspect(&name(), Space::Locks).await.unwrap().is_empty();
    if renewed == Some(RenewalOutcome::NotHeld) && free { Verdict::Refused } else { Verdict::Broken }
}

async fn renew(store: &dyn LockStore, claim: &Claim) -> Option<RenewalOutcome> {
    let batch = RenewalBatch::new(&Clock::system(), [claim.clone()]);
    _ = store.renew(&batch).await;
    batch.iter().next().and_then(|entry| entry.outcome())
}

async fn long_wait(deployment: Deployment) -> Verdict {
    let holder = locks(deployment.open().await).lock(NAME).fixed().ttl(Deployment::TTL * 3).acquire().await.unwrap();
    let waiting = tokio::spawn(locks(deployment.open().await).lock(NAME).acquire());
    holder.lost().await;
    drop(holder);
    let guard = waiting.await.unwrap().unwrap();
    let holder = deployment.open().await.inspect(&name(), Space::Locks).await.unwrap().pop().and_then(|by| by.holder);
    if guard.is_valid() && holder == Some(guard.holder()) { Verdict::Refused } else { Verdict::Broken }
}

async fn cut_off_holder(deployment: Deployment) -> Verdict {
    let (url, links) = deployment.proxied();
    let mut holder = Holder::start_at(&url);
    links.iter().for_each(Proxy::cut);
    let next = locks(deployment.open().await).lock(NAME).acquire().await.unwrap();
    // It is cut off, and learns it by its own clock.
    if holder.ask() { old_writes_after(next.token_if_any().unwrap(), &holder.token).await } else { Verdict::Refused }
}

async fn paused_server(mut deployment: Deployment) -> Verdict {
    let mut holder = Holder::start(&deployment).await;
    deployment.server().pause();
    until("the holder is told", || (!holder.ask()).then_some(()));
    deployment.server().resume();
    let next = locks(deployment.open().await).lock(NAME).acquire().await.unwrap();
    if *next.token_if_any().unwrap() > holder.token { Verdict::Refused } else { Verdict::Broken }
}

async fn restarted_server(mut deployment: Deployment) -> Verdict {
    // Long enough to last through the restart.
    let held = locks(deployment.open().await).lock(NAME).fixed().ttl(Deployment::TTL * 60).acquire().await.unwrap();
    deployment.server().restart();
    let others = locks(deployment.open().await);
    if let Some(next) = others.lock(NAME).try_acquire().await.unwrap() {
        assert!(held.is_valid(), "the restart took longer than the TTL");
        return old_writes_after(next.token_if_any().unwrap(), held.token_if_any().unwrap()).await;
    }
    let token = held.token_if_any().unwrap().clone();
    deployment.open().await.break_lock(&name(), &seen(&deployment).await, BreakMode::Now).await.unwrap();
    let next = others.lock(NAME).acquire().await.unwrap();
    if *next.token_if_any().unwrap() > token { Verdict::Safe } else { Verdict::Broken }
}

async fn seen(deployment: &Deployment) -> HeldBy {
    deployment.open().await.inspect(&name(), Space::Locks).await.unwrap().pop().unwrap()
}
