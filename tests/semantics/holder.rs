//! [`Holder`]: a holder that can be paused and killed. It is a process, or a thread with its own runtime where the store
//! is in one process.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use leasehold::{FencingToken, LockGuard, Locks, Realm};
use lock_testkit::Process;

use crate::fixture::Deployment;

const NAME: &str = "the lock";
const URL: &str = "LEASEHOLD_SEMANTICS_HOLDER";
const TTL: &str = "LEASEHOLD_SEMANTICS_TTL";

/// Holds and renews the lock until it is paused, killed or dropped.
pub(crate) struct Holder {
    pub(crate) token: FencingToken,
    body: Body,
}

enum Body {
    Process { process: Process, lines: mpsc::Receiver<String> },
    Thread { resume: mpsc::Sender<()>, beliefs: mpsc::Receiver<bool> },
}

impl Holder {
    pub(crate) async fn start(deployment: &Deployment) -> Holder {
        match deployment.url() {
            Some(url) => Holder::start_at(&url),
            None => Holder::start_thread(deployment).await,
        }
    }

    /// Starts a process that opens the store at this URL.
    pub(crate) fn start_at(url: &str) -> Holder {
        Holder::start_by(url, Command::new(std::env::current_exe().unwrap()))
    }

    /// Starts a process with a TTL that is longer than any delay of a busy machine.
    pub(crate) fn start_long(deployment: &Deployment) -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(TTL, Deployment::LONG_TTL.as_secs().to_string());
        Holder::start_by(&deployment.url().expect("it has a URL"), command)
    }

    /// Starts a process with such a TTL, whose wall clock is a day ahead, and no other clock.
    pub(crate) fn start_a_day_ahead(deployment: &Deployment) -> Holder {
        let mut command = Command::new("faketime");
        command.env(TTL, Deployment::LONG_TTL.as_secs().to_string());
        command.args(["--exclude-monotonic", "-f", "+1d"]).arg(std::env::current_exe().unwrap());
        Holder::start_by(&deployment.url().expect("it has a URL"), command)
    }

    fn start_by(url: &str, mut command: Command) -> Holder {
        command.env(URL, url).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(&mut command);
        let stdout = process.child().stdout.take().unwrap();
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| line.send(l)));
        let grant: String = lines.recv().unwrap();
        let (number, realm) = grant.split_once(' ').unwrap();
        let token = FencingToken::new(Realm::new(realm), number.parse().unwrap());
        Holder { token, body: Body::Process { process, lines } }
    }

    /// Starts a thread whose runtime and clock stand still from the grant on, like a process that
    /// is paused then. Its renewals run where the clock of the test stands still, and otherwise in
    /// the background of the process, which all share.
    async fn start_thread(deployment: &Deployment) -> Holder {
        let store = deployment.open().await;
        let (grant, grants) = tokio::sync::oneshot::channel();
        let (resume, resumed) = mpsc::channel();
        let (belief, beliefs) = mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            let guard = runtime.block_on(acquire(Locks::builder_of(store).build(), Deployment::TTL));
            grant.send(guard.token_if_any().unwrap().clone()).unwrap();
            // The sender is gone if the test has ended.
            if resumed.recv().is_ok() {
                belief.send(guard.is_valid()).unwrap();
            }
        });
        Holder { token: grants.await.unwrap(), body: Body::Thread { resume, beliefs } }
    }

    pub(crate) fn pause(&self) {
        if let Body::Process { process, .. } = &self.body {
            process.pause();
        }
    }

    /// Resumes it; returns whether it still believes in its lease.
    pub(crate) fn resume_and_ask(&mut self) -> bool {
        if let Body::Process { process, .. } = &self.body {
            process.resume();
        }
        self.ask()
    }

    /// Returns whether it still believes in its lease.
    pub(crate) fn ask(&mut self) -> bool {
        match &mut self.body {
            Body::Process { process, lines } => {
                process.child().stdin.as_mut().unwrap().write_all(b"well?\n").unwrap();
                lines.recv().unwrap() == "valid"
            }
            Body::Thread { resume, beliefs } => {
                resume.send(()).unwrap();
                beliefs.recv().unwrap()
            }
        }
    }

    /// Kills it.
    pub(crate) fn kill(self) {
        if let Body::Process { mut process, .. } = self.body {
            process.kill();
        }
    }
}

async fn acquire(locks: Locks, ttl: Duration) -> LockGuard {
    locks.lock(NAME).ttl(ttl).acquire().await.unwrap()
}

pub(crate) fn is_child() -> bool {
    std::env::var_os(URL).is_some()
}

/// The main function of the process: prints its token, and on each request whether it believes in
/// its lease.
pub(crate) fn child() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ttl = std::env::var(TTL).map_or(Deployment::TTL, |ttl| Duration::from_secs(ttl.parse().unwrap()));
    let guard =
        runtime.block_on(async { acquire(leasehold::connect(std::env::var(URL).unwrap()).await.unwrap(), ttl).await });
    let token = guard.token_if_any().unwrap();
    println!("{} {}", token.number(), token.realm());
    for _question in std::io::stdin().lines() {
        println!("{}", if guard.is_valid() { "valid" } else { "lost" });
    }
    ExitCode::SUCCESS
}
