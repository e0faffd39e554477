//! [`Worker`]: a process with locks of its own, which does what it is told.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use lock_testkit::Process;

use crate::order::{Answer, Order};

pub(crate) const URL: &str = "LEASEHOLD_LOAD_WORKER";

/// More than any order takes: each has limits of its own.
const BOUND: Duration = Duration::from_secs(480);

/// A process with locks of its own, which does what it is told. Dropped, it is killed.
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

    /// Tells it what to do; another may be told before it has answered.
    pub(crate) fn tell(&mut self, order: &Order) {
        let line = serde_json::to_string(order).unwrap() + "\n";
        self.process.child().stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
    }

    /// How the first order went that it has not answered yet.
    pub(crate) fn answer(&self) -> Answer {
        let line = self.answers.recv_timeout(BOUND).expect("the worker answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    /// Tells it what to do, and waits until that is done.
    pub(crate) fn ask(&mut self, order: &Order) -> Answer {
        self.tell(order);
        self.answer()
    }
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(URL).is_some()
}
