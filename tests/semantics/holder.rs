//! A holder that can be paused and killed: a process of its own, or where the store is in one process, a thread with a
//! runtime of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use leasehold::{FencingToken, LockGuard, Locks, Realm};
use lock_testkit::Process;

use crate::bed::Made;

const NAME: &str = "the lock";
const URL: &str = "LEASEHOLD_SEMANTICS_HOLDER";
const TTL: &str = "LEASEHOLD_SEMANTICS_TTL";

/// Holds the lock, renewed, until it is paused, killed or dropped.
pub(crate) struct Holder {
    pub(crate) token: FencingToken,
    body: Body,
}

enum Body {
    Process { process: Process, lines: mpsc::Receiver<String> },
    Thread { resume: mpsc::Sender<()>, told: mpsc::Receiver<bool> },
}

impl Holder {
    pub(crate) async fn start(made: &Made) -> Holder {
        match made.url() {
            Some(url) => Holder::start_at(&url),
            None => Holder::start_thread(made).await,
        }
    }

    /// A process of its own, which finds the store by this URL.
    pub(crate) fn start_at(url: &str) -> Holder {
        Holder::start_by(url, Command::new(std::env::current_exe().unwrap()))
    }

    /// With a TTL that no delay of a busy machine uses up.
    pub(crate) fn start_long(made: &Made) -> Holder {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.env(TTL, Made::LONG_TTL.as_secs().to_string());
        Holder::start_by(&made.url().expect("it has a URL"), command)
    }

    /// With such a TTL too; its wall clock is a day ahead, and no other clock.
    pub(crate) fn start_a_day_ahead(made: &Made) -> Holder {
        let mut command = Command::new("faketime");
        command.env(TTL, Made::LONG_TTL.as_secs().to_string());
        command.args(["--exclude-monotonic", "-f", "+1d"]).arg(std::env::current_exe().unwrap());
        Holder::start_by(&made.url().expect("it has a URL"), command)
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

    /// Its runtime and its clock stand still from the grant on, as a process does that is paused then. Renewals run where the
    /// clock of a test stands still, and else in the background of the process, which is that of the others too.
    async fn start_thread(made: &Made) -> Holder {
        let store = made.open().await;
        let (grant, grants) = tokio::sync::oneshot::channel();
        let (resume, resumed) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().start_paused(true).build().unwrap();
            let guard = runtime.block_on(acquire(Locks::builder_of(store).build(), Made::TTL));
            grant.send(guard.token_if_any().unwrap().clone()).unwrap();
            // The test has ended if there is nobody to wait for.
            if resumed.recv().is_ok() {
                tell.send(guard.is_valid()).unwrap();
            }
        });
        Holder { token: grants.await.unwrap(), body: Body::Thread { resume, told } }
    }

    pub(crate) fn pause(&self) {
        if let Body::Process { process, .. } = &self.body {
            process.pause();
        }
    }

    /// Lets it go on, and asks it whether it still believes.
    pub(crate) fn resume_and_ask(&mut self) -> bool {
        if let Body::Process { process, .. } = &self.body {
            process.resume();
        }
        self.ask()
    }

    /// Whether it still believes.
    pub(crate) fn ask(&mut self) -> bool {
        match &mut self.body {
            Body::Process { process, lines } => {
                process.child().stdin.as_mut().unwrap().write_all(b"well?\n").unwrap();
                lines.recv().unwrap() == "valid"
            }
            Body::Thread { resume, told } => {
                resume.send(()).unwrap();
                told.recv().unwrap()
            }
        }
    }

    /// Ends it without a word.
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

/// The holder as a process: says its token, and whether it believes whenever it is asked.
pub(crate) fn child() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let ttl = std::env::var(TTL).map_or(Made::TTL, |ttl| Duration::from_secs(ttl.parse().unwrap()));
    let guard =
        runtime.block_on(async { acquire(leasehold::connect(std::env::var(URL).unwrap()).await.unwrap(), ttl).await });
    let token = guard.token_if_any().unwrap();
    println!("{} {}", token.number(), token.realm());
    for _question in std::io::stdin().lines() {
        println!("{}", if guard.is_valid() { "valid" } else { "lost" });
    }
    ExitCode::SUCCESS
}
