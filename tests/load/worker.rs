//! [`Worker`]: a process with its own locks, which executes orders.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lock_testkit::Process;

use crate::order::{Answer, Order};

pub(crate) const URL: &str = "LEASEHOLD_LOAD_WORKER";

/// Time limit of an answer: longer than any order, which all have their own limits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(480);

/// A process with its own locks, which executes orders. Dropped, it is killed.
pub(crate) struct Worker {
    process: Process,
    answers: mpsc::Receiver<String>,
}

impl Worker {
    pub(crate) fn start(url: &str) -> Worker {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(URL, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let stdout = process.child().stdout.take().unwrap();
        let (answer, answers) = mpsc::channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| answer.send(line))
        });
        Worker { process, answers }
    }

    /// Sends an order; more may be sent before it is answered.
    pub(crate) fn send(&mut self, order: &Order) {
        let line = serde_json::to_string(order).unwrap() + "\n";
        self.process.child().stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// Waits for the answer to the oldest unanswered order.
    pub(crate) fn answer(&self) -> Answer {
        let line = self.answers.recv_timeout(ANSWER_TIMEOUT).expect("the worker answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Sends an order and waits for its answer.
    pub(crate) fn ask(&mut self, order: &Order) -> Answer {
        self.send(order);
        self.answer()
    }
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(URL).is_some()
}
