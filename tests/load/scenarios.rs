//! The loads.

use std::time::{Duration, Instant};

use crate::case::Case;
use crate::order::{Crowd, Order};

/// A load under which no store may lose anything.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// True if it needs a server that can be paused or delayed.
    pub(crate) needs_server: bool,
    pub(crate) run: fn(&mut Case),
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "crowd",
        what: "3,000 waiters of two processes leave the lock to its holder, and are served",
        needs_server: true,
        run: crowd,
    },
    Scenario {
        name: "drop",
        what: "10,000 guards that are dropped at once are given back, and other locks stay held",
        needs_server: false,
        run: drop_at_once,
    },
    Scenario {
        name: "hand-over",
        what: "3,000 names that are released at once go to those who wait for them",
        needs_server: false,
        run: hand_over,
    },
    Scenario {
        name: "pause",
        what: "20,000 locks stay held while the server stands still for half their TTL",
        needs_server: true,
        run: pause,
    },
    Scenario {
        name: "tries",
        what: "50 locks stay held beside 4,000 tasks that try, 20 ms away",
        needs_server: true,
        run: tries,
    },
];

/// The TTL of locks that must stay held: longer than the worst pause of the machine, and short
/// enough to be renewed meanwhile.
const TTL: Duration = Duration::from_secs(15);
/// The TTL of locks that are released: none is free because it has expired.
const LONG_TTL: Duration = Duration::from_secs(120);
/// Locks that must stay held beside a load.
const KEPT: usize = 50;
/// Wait limit of a waiter that must be served. 3,000 hand-overs between two processes, one after
/// the other, take half a minute on a quiet machine, and four where each wake-up waits for a
/// processor.
const LIMIT: Duration = Duration::from_secs(300);

fn hold(group: &str, count: usize, ttl: Duration) -> Order {
    Order::Hold { group: group.to_owned(), count, ttl }
}

fn release(group: &str) -> Order {
    Order::Release { group: group.to_owned() }
}

fn serve(group: &str) -> Order {
    Order::Serve { group: group.to_owned() }
}

fn crowd(case: &mut Case) {
    const WAITERS: usize = 1_500;
    const IMPATIENT: usize = 150;
    let crowd = Crowd {
        group: "job".to_owned(),
        names: 1,
        waiters: WAITERS,
        ttl: TTL,
        limit: LIMIT,
        impatient: IMPATIENT,
        patience: Duration::from_secs(5),
        keeps: false,
    };
    let both = [case.worker(), case.worker()];
    case.ask(both[0], &hold("job", 1, TTL), "held", 1);
    let began = Instant::now();
    both.iter().for_each(|worker| case.send(*worker, &Order::Wait(crowd.clone())));
    both.iter().for_each(|worker| case.expect_answer(*worker, "waiting", WAITERS));
    // Longer than an unrenewed lease lasts.
    std::thread::sleep((TTL + TTL / 5).saturating_sub(began.elapsed()));
    case.ask(both[0], &release("job"), "released", 1);
    both.iter().for_each(|worker| case.send(*worker, &serve("job")));
    both.iter().for_each(|worker| case.expect_served(*worker, "served", WAITERS - IMPATIENT, IMPATIENT));
}

fn drop_at_once(case: &mut Case) {
    const DROPPED: usize = 10_000;
    let worker = case.worker();
    case.ask(worker, &hold("kept", KEPT, TTL), "kept", KEPT);
    case.ask(worker, &hold("dropped", DROPPED, LONG_TTL), "held", DROPPED);
    case.ask(worker, &Order::Drop { group: "dropped".to_owned() }, "dropped", DROPPED);
    case.ask(worker, &Order::Close, "closed", 1);
    case.ask(worker, &Order::List { group: "dropped".to_owned() }, "still held", 0);
    case.ask(worker, &release("kept"), "kept until released", KEPT);
}

fn hand_over(case: &mut Case) {
    const NAMES: usize = 3_000;
    let crowd = Crowd {
        group: "name".to_owned(),
        names: NAMES,
        waiters: NAMES,
        ttl: TTL,
        limit: LIMIT,
        impatient: 0,
        patience: LIMIT,
        keeps: true,
    };
    let (first, second) = (case.worker(), case.worker());
    case.ask(first, &hold("kept", KEPT, TTL), "kept", KEPT);
    case.ask(first, &hold("name", NAMES, TTL), "held", NAMES);
    case.ask(second, &Order::Wait(crowd), "waiting", NAMES);
    case.ask(first, &release("name"), "released", NAMES);
    case.send(second, &serve("name"));
    case.expect_served(second, "served", NAMES, 0);
    case.ask(second, &release("name"), "held until released", NAMES);
    case.ask(first, &release("kept"), "kept until released", KEPT);
}

fn pause(case: &mut Case) {
    const HELD: usize = 20_000;
    const TTL: Duration = Duration::from_secs(30);
    let worker = case.worker();
    case.ask(worker, &hold("held", HELD, TTL), "held", HELD);
    case.deployment.server().pause();
    case.ask(worker, &Order::Watch { group: "held".to_owned() }, "watched", HELD);
    std::thread::sleep(TTL / 2);
    case.deployment.server().resume();
    case.ask(worker, &Order::Renewed { group: "held".to_owned() }, "renewed", HELD);
    case.ask(worker, &release("held"), "held until released", HELD);
}

fn tries(case: &mut Case) {
    const TASKS: usize = 4_000;
    const TTL: Duration = Duration::from_secs(3);
    let (url, links) = case.deployment.proxied();
    links.iter().for_each(|link| link.delay(Duration::from_millis(20)));
    let worker = case.worker_at(&url);
    case.ask(worker, &hold("kept", KEPT, TTL), "kept", KEPT);
    case.send(worker, &Order::Try { group: "tried".to_owned(), tasks: TASKS, time: TTL * 3 });
    let _ = case.answer(worker, "tried");
    case.ask(worker, &release("kept"), "kept until released", KEPT);
}
