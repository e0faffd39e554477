//! [`Work`]: the work of a worker, in its own process.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use leasehold::{Error, ErrorKind, LockGuard, Locks, LossReason};
use tokio::task::JoinSet;

use crate::log_lines::{LogLines, without_numbers};
use crate::order::{Answer, Crowd, Order};
use crate::worker::URL;

/// Number of locks acquired at a time where that is not the load.
const AT_A_TIME: usize = 64;
/// Time limit of work that has no limit of its own.
const WORK_TIMEOUT: Duration = Duration::from_secs(90);

/// The main function of the process: reads an order a line, and prints its answer.
pub(crate) fn child() -> ExitCode {
    let lines = LogLines::begin();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let url = std::env::var(URL).unwrap();
    let locks = runtime.block_on(async { leasehold::connect(url).await }).unwrap();
    let mut work = Work { locks, lines, guards: HashMap::new(), waiters: HashMap::new(), renewals: HashMap::new() };
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line.unwrap()).unwrap();
        let started = Instant::now();
        let mut answer = runtime.block_on(work.obey(order));
        answer.took = started.elapsed();
        println!("{}", serde_json::to_string(&answer).unwrap());
    }
    ExitCode::SUCCESS
}

struct Work {
    locks: Locks,
    lines: LogLines,
    guards: HashMap<String, Vec<LockGuard>>,
    waiters: HashMap<String, Waiters>,
    renewals: HashMap<String, JoinSet<Result<(), LossReason>>>,
}

struct Waiters {
    crowd: Crowd,
    tasks: JoinSet<Ended>,
    until: tokio::time::Instant,
}

/// The end of a waiter.
enum Ended {
    Kept(LockGuard),
    Released(Result<(), Error>),
    /// At its own limit, and this much later.
    TimedOut(Duration),
    Failed(Error),
}

impl Work {
    async fn obey(&mut self, order: Order) -> Answer {
        match order {
            Order::Hold { group, count, ttl } => self.hold(group, count, ttl).await,
            Order::Wait(crowd) => self.wait(crowd).await,
            Order::Serve { group } => self.serve(&group).await,
            Order::Drop { group } => self.drop_all(&group),
            Order::Release { group } => self.release(&group).await,
            Order::Watch { group } => self.watch(group),
            Order::Renewed { group } => self.renewed(&group).await,
            Order::Try { group, tasks, time } => self.try_for(&group, tasks, time).await,
            Order::Close => self.close().await,
            Order::List { group } => self.list(&group).await,
            Order::Lines => self.lines.count(),
        }
    }

    async fn hold(&mut self, group: String, count: usize, ttl: Duration) -> Answer {
        let mut tasks = JoinSet::new();
        for task in 0..AT_A_TIME {
            let locks: Vec<_> =
                (task..count).step_by(AT_A_TIME).map(|i| self.locks.lock(name(&group, i)).ttl(ttl)).collect();
            tasks.spawn(async move {
                let mut guards = Vec::new();
                for lock in locks {
                    guards.push(lock.acquire().await);
                }
                guards
            });
        }
        let mut answer = Answer::default();
        let mut held = Vec::new();
        for guard in tasks.join_all().await.into_iter().flatten() {
            match guard {
                Ok(guard) => held.push(guard),
                Err(error) => answer.fail(&error),
            }
        }
        answer.done = held.len();
        self.guards.insert(group, held);
        answer
    }

    async fn wait(&mut self, crowd: Crowd) -> Answer {
        let waiting = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for number in 0..crowd.waiters {
            let is_impatient =
                number * crowd.impatient / crowd.waiters != (number + 1) * crowd.impatient / crowd.waiters;
            let limit = if is_impatient { crowd.patience } else { crowd.limit };
            let once = Once { counted: AtomicBool::new(false), waiting: waiting.clone() };
            let lock = self.locks.lock(name(&crowd.group, number % crowd.names)).ttl(crowd.ttl).wait(limit);
            let lock = lock.on_wait(move |_| once.count());
            tasks.spawn(wait_once(lock.acquire(), limit, crowd.keeps));
        }
        let until = tokio::time::Instant::now() + crowd.limit + WORK_TIMEOUT / 2;
        let all = async {
            while waiting.load(Ordering::Acquire) < crowd.waiters {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // A waiter without a call of `on_wait` by then counts as not waiting.
        let _ = tokio::time::timeout(WORK_TIMEOUT, all).await;
        self.waiters.insert(crowd.group.clone(), Waiters { crowd, tasks, until });
        Answer { done: waiting.load(Ordering::Acquire), ..Answer::default() }
    }

    async fn serve(&mut self, group: &str) -> Answer {
        let Waiters { crowd, mut tasks, until } = self.waiters.remove(group).unwrap();
        let (mut answer, mut kept) = (Answer::default(), Vec::new());
        while let Ok(Some(ended)) = tokio::time::timeout_at(until, tasks.join_next()).await {
            match ended.unwrap() {
                Ended::Kept(guard) => {
                    answer.done += 1;
                    kept.push(guard);
                }
                Ended::Released(released) => {
                    answer.done += 1;
                    answer.released(released);
                }
                Ended::TimedOut(after) => {
                    answer.timed_out += 1;
                    answer.latest = answer.latest.max(after);
                }
                Ended::Failed(error) => answer.fail(&error),
            }
        }
        for _ in 0..tasks.len() {
            answer.failed += 1;
            answer.note("a waiter was neither served nor ended by its limit");
        }
        if crowd.keeps {
            self.guards.insert(crowd.group, kept);
        }
        answer
    }

    fn drop_all(&mut self, group: &str) -> Answer {
        let guards = self.guards.remove(group).unwrap();
        let lost = guards.iter().filter(|guard| !guard.is_valid()).count();
        let done = guards.len();
        drop(guards);
        Answer { done, lost, ..Answer::default() }
    }

    async fn release(&mut self, group: &str) -> Answer {
        let guards = self.guards.remove(group).unwrap();
        let tasks: JoinSet<_> = guards.into_iter().map(LockGuard::release).collect();
        let mut answer = Answer::default();
        for released in tasks.join_all().await {
            answer.done += usize::from(released.is_ok());
            answer.released(released);
        }
        answer
    }

    fn watch(&mut self, group: String) -> Answer {
        let guards = &self.guards[&group];
        let renewal = |guard: &LockGuard| {
            let validity = guard.validity();
            async move { validity.renewed().await }
        };
        let renewals: JoinSet<_> = guards.iter().map(renewal).collect();
        self.renewals.insert(group, renewals);
        Answer { done: guards.len(), ..Answer::default() }
    }

    async fn renewed(&mut self, group: &str) -> Answer {
        let mut renewals = self.renewals.remove(group).unwrap();
        let mut answer = Answer::default();
        let until = tokio::time::Instant::now() + WORK_TIMEOUT;
        while let Ok(Some(renewed)) = tokio::time::timeout_at(until, renewals.join_next()).await {
            match renewed.unwrap() {
                Ok(()) => answer.done += 1,
                Err(reason) => {
                    answer.lost += 1;
                    answer.note(reason.to_string());
                }
            }
        }
        answer.failed = renewals.len();
        answer
    }

    async fn try_for(&self, group: &str, tasks: usize, time: Duration) -> Answer {
        let until = Instant::now() + time;
        let tries = (0..tasks).map(|number| {
            let lock = self.locks.lock(name(group, number));
            async move {
                let mut answer = Answer::default();
                while Instant::now() < until {
                    match lock.try_acquire().await {
                        Ok(Some(guard)) => {
                            answer.done += 1;
                            answer.released(guard.release().await);
                        }
                        // Held by this task, whose last release is in doubt.
                        Ok(None) => answer.done += 1,
                        // The server is overloaded and says so.
                        Err(error) if error.is_retryable() && !error.may_have_taken_effect() => answer.turned_away += 1,
                        Err(error) => answer.fail(&error),
                    }
                }
                answer
            }
        });
        let tries: JoinSet<_> = tries.collect();
        let mut all = Answer::default();
        for answer in tries.join_all().await {
            all.starved += usize::from(answer.done + answer.turned_away == 0);
            all.add(answer);
        }
        all
    }

    async fn close(&self) -> Answer {
        match tokio::time::timeout(WORK_TIMEOUT, self.locks.close()).await {
            Ok(()) => Answer { done: 1, ..Answer::default() },
            Err(_) => Answer { failed: 1, ..Answer::default() },
        }
    }

    async fn list(&self, group: &str) -> Answer {
        const PAGE: usize = 1_000;
        let mut answer = Answer::default();
        let mut after = None;
        loop {
            let page = match self.locks.list(after.as_ref(), PAGE).await {
                Ok(page) => page,
                Err(error) => {
                    answer.fail(&error);
                    return answer;
                }
            };
            answer.done += page.iter().filter(|(name, _)| name.as_str().starts_with(&format!("{group}-"))).count();
            match page.into_iter().nth(PAGE - 1) {
                Some((last, _)) => after = Some(last),
                None => return answer,
            }
        }
    }
}

/// Counts a waiter once, when it learns who is ahead or ends.
struct Once {
    counted: AtomicBool,
    waiting: Arc<AtomicUsize>,
}

impl Once {
    fn count(&self) {
        if !self.counted.swap(true, Ordering::AcqRel) {
            self.waiting.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Drop for Once {
    fn drop(&mut self) {
        self.count();
    }
}

async fn wait_once(acquire: impl Future<Output = Result<LockGuard, Error>>, limit: Duration, keeps: bool) -> Ended {
    let started = Instant::now();
    match acquire.await {
        Ok(guard) if keeps => Ended::Kept(guard),
        Ok(guard) => Ended::Released(guard.release().await),
        // Its limit may pass while a request is in flight, whose answer it then awaits in vain.
        Err(error) if error.is_retryable() && started.elapsed() >= limit => {
            Ended::TimedOut(started.elapsed().saturating_sub(limit))
        }
        Err(error) => Ended::Failed(error),
    }
}

impl Answer {
    fn fail(&mut self, error: &Error) {
        self.failed += 1;
        self.note(format!("{:?}: {}", error.kind(), without_numbers(&error.to_string())));
    }

    fn released(&mut self, released: Result<(), Error>) {
        let Err(error) = released else { return };
        match error.kind() {
            ErrorKind::Lost => self.lost += 1,
            _ => self.in_doubt += 1,
        }
        self.note(format!("release, {:?}: {}", error.kind(), without_numbers(&error.to_string())));
    }

    fn add(&mut self, other: Answer) {
        self.done += other.done;
        self.lost += other.lost;
        self.failed += other.failed;
        self.turned_away += other.turned_away;
        self.timed_out += other.timed_out;
        self.in_doubt += other.in_doubt;
        for (what, times) in other.messages {
            *self.messages.entry(what).or_default() += times;
        }
    }
}

/// The name of one lock of a group.
fn name(group: &str, number: usize) -> String {
    format!("{group}-{number}")
}
