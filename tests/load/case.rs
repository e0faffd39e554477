//! [`Case`]: one scenario on one store, with its figures and complaints.

use std::time::Duration;

use crate::fixture::{Deployment, Fixture};
use crate::order::{Answer, Order};
use crate::worker::Worker;

/// Limit of log lines of a program under a load.
const MAX_LOG_LINES: usize = 100;
/// Time after its limit within which a waiter must end: a request in flight is awaited for 5
/// seconds, and the machine is busy.
const MAX_LATENESS: Duration = Duration::from_secs(15);

/// One scenario on one store.
pub(crate) struct Case {
    pub(crate) deployment: Deployment,
    is_served: bool,
    workers: Vec<Worker>,
    figures: Vec<String>,
    complaints: Vec<String>,
}

impl Case {
    pub(crate) fn new(fixture: &Fixture) -> Case {
        let (figures, complaints) = (Vec::new(), Vec::new());
        Case { deployment: fixture.make(), is_served: fixture.is_served, workers: Vec::new(), figures, complaints }
    }

    /// Starts another process with locks of this store, or returns the only one where all is in one
    /// process. Returns its index.
    pub(crate) fn worker(&mut self) -> usize {
        let url = self.deployment.url.clone();
        self.worker_at(&url)
    }

    /// Starts another process, which opens the store at this URL.
    pub(crate) fn worker_at(&mut self, url: &str) -> usize {
        if self.is_served || self.workers.is_empty() {
            self.workers.push(Worker::start(url));
        }
        self.workers.len() - 1
    }

    pub(crate) fn send(&mut self, worker: usize, order: &Order) {
        self.workers[worker].send(order);
    }

    /// The answer to the oldest unanswered order of this worker. Failures and losses become
    /// complaints.
    pub(crate) fn answer(&mut self, worker: usize, what: &str) -> Answer {
        let answer = self.workers[worker].answer();
        self.figures.push(format!("{what}: {} in {:.1} s", answer.done, answer.took.as_secs_f64()));
        let said = answer.most_frequent();
        for (count, how) in [(answer.lost, "lost"), (answer.failed, "failed"), (answer.starved, "never answered")] {
            self.expect(count == 0, || format!("{what}: {count} {how}\n    {said}"));
        }
        if answer.turned_away > 0 {
            self.figures.push(format!("told \"not now\": {}", answer.turned_away));
        }
        if answer.timed_out > 0 {
            self.figures.push(format!("ended by their own limit: {}", answer.timed_out));
        }
        if answer.in_doubt > 0 {
            self.figures.push(format!("releases to be repeated: {}", answer.in_doubt));
        }
        answer
    }

    /// Sends an order and waits for its answer, which must count this many times.
    pub(crate) fn ask(&mut self, worker: usize, order: &Order, what: &str, times: usize) {
        self.send(worker, order);
        self.expect_answer(worker, what, times);
    }

    pub(crate) fn expect_answer(&mut self, worker: usize, what: &str, times: usize) {
        let answer = self.answer(worker, what);
        self.expect(answer.done == times, || format!("{what}: {} of {times}", answer.done));
    }

    /// Waits until all waiters have ended: this many served, and this many at their own limit.
    pub(crate) fn expect_served(&mut self, worker: usize, what: &str, served: usize, timed_out: usize) {
        let answer = self.answer(worker, what);
        let ended = (answer.done, answer.timed_out);
        self.expect(ended == (served, timed_out), || {
            format!("{what}: {} served and {} ended by their limit, of {served} and {timed_out}", ended.0, ended.1)
        });
        self.expect(answer.latest < MAX_LATENESS, || format!("{what}: one ended {:?} after its limit", answer.latest));
    }

    fn expect(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(complaint());
        }
    }

    /// Counts the log lines; returns the figures and the complaints.
    pub(crate) fn end(mut self) -> (String, Vec<String>) {
        let answers: Vec<_> = self.workers.iter_mut().map(|worker| worker.ask(&Order::Lines)).collect();
        let lines: usize = answers.iter().map(|answer| answer.lines).sum();
        self.figures.push(format!("lines: {lines}"));
        let most_frequent: Vec<_> = answers.iter().map(Answer::most_frequent).collect();
        self.expect(lines < MAX_LOG_LINES, || format!("it logged {lines} lines\n    {}", most_frequent.join("\n    ")));
        (self.figures.join("; "), self.complaints)
    }
}
