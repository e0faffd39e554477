//! [`Case`]: one scenario on one store, with its figures and complaints.

use std::time::Duration;

use crate::bed::{Bed, Made};
use crate::order::{Answer, Order};
use crate::worker::Worker;

/// How many lines a program may log under a load.
const LINES: usize = 100;
/// How long after its limit a waiter may end: a request under way is awaited for 5 seconds, and the machine is busy.
const LATE: Duration = Duration::from_secs(15);

/// One scenario on one store.
pub(crate) struct Case {
    pub(crate) made: Made,
    is_served: bool,
    workers: Vec<Worker>,
    figures: Vec<String>,
    complaints: Vec<String>,
}

impl Case {
    pub(crate) fn new(bed: &Bed) -> Case {
        let (figures, complaints) = (Vec::new(), Vec::new());
        Case { made: bed.make(), is_served: bed.is_served, workers: Vec::new(), figures, complaints }
    }

    /// Another process with locks of this store; where all is in one process, that one. Gives its number.
    pub(crate) fn worker(&mut self) -> usize {
        let url = self.made.url.clone();
        self.worker_at(&url)
    }

    /// Another process, which finds the store by this URL.
    pub(crate) fn worker_at(&mut self, url: &str) -> usize {
        if self.is_served || self.workers.is_empty() {
            self.workers.push(Worker::start(url));
        }
        self.workers.len() - 1
    }

    pub(crate) fn tell(&mut self, worker: usize, order: &Order) {
        self.workers[worker].tell(order);
    }

    /// How the first order went that this worker has not answered yet; what failed or was lost is a complaint.
    pub(crate) fn answer(&mut self, worker: usize, what: &str) -> Answer {
        let answer = self.workers[worker].answer();
        self.figures.push(format!("{what}: {} in {:.1} s", answer.done, answer.took.as_secs_f64()));
        let said = answer.loudest();
        for (count, how) in [(answer.lost, "lost"), (answer.failed, "failed"), (answer.starved, "never answered")] {
            self.expect(count == 0, || format!("{what}: {count} {how}\n    {said}"));
        }
        if answer.turned_away > 0 {
            self.figures.push(format!("told \"not now\": {}", answer.turned_away));
        }
        if answer.unclear > 0 {
            self.figures.push(format!("releases to be repeated: {}", answer.unclear));
        }
        answer
    }

    /// Tells it what to do and waits until that is done, which is to have been done so many times.
    pub(crate) fn ask(&mut self, worker: usize, order: &Order, what: &str, times: usize) {
        self.tell(worker, order);
        self.expect_answer(worker, what, times);
    }

    pub(crate) fn expect_answer(&mut self, worker: usize, what: &str, times: usize) {
        let answer = self.answer(worker, what);
        self.expect(answer.done == times, || format!("{what}: {} of {times}", answer.done));
    }

    /// Waits until all waiters have ended: so many of them served, and so many by their own limit.
    pub(crate) fn expect_served(&mut self, worker: usize, what: &str, served: usize, timed_out: usize) {
        let answer = self.answer(worker, what);
        let ended = (answer.done, answer.timed_out);
        self.expect(ended == (served, timed_out), || {
            format!("{what}: {} served and {} ended by their limit, of {served} and {timed_out}", ended.0, ended.1)
        });
        self.expect(answer.latest < LATE, || format!("{what}: one ended {:?} after its limit", answer.latest));
    }

    fn expect(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(complaint());
        }
    }

    /// Counts what was logged; gives the figures, and what is wrong.
    pub(crate) fn end(mut self) -> (String, Vec<String>) {
        let answers: Vec<_> = self.workers.iter_mut().map(|worker| worker.ask(&Order::Lines)).collect();
        let lines: usize = answers.iter().map(|answer| answer.lines).sum();
        self.figures.push(format!("lines: {lines}"));
        let loudest: Vec<_> = answers.iter().map(Answer::loudest).collect();
        self.expect(lines < LINES, || format!("it logged {lines} lines\n    {}", loudest.join("\n    ")));
        (self.figures.join("; "), self.complaints)
    }
}
