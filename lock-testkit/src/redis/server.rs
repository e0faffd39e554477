//! [`RedisServer`]: a server on a private port.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::{Process, Server, WallClock, free_port, until};

/// A `redis-server` on a private port, with its own folder. Dropped, it is killed and its folder
/// removed.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    clock: Option<WallClock>,
    process: Process,
}

impl RedisServer {
    /// Starts a server with these settings, such as `["--appendonly", "yes"]`. It has no
    /// persistence by default.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(settings: &[&str]) -> RedisServer {
        RedisServer::start_with(None, settings)
    }

    /// Starts a server with its own wall clock, which [`set_clock`](RedisServer::set_clock) sets.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start_with_clock(settings: &[&str]) -> RedisServer {
        RedisServer::start_with(Some(WallClock::new()), settings)
    }

    #[track_caller]
    fn start_with(clock: Option<WallClock>, settings: &[&str]) -> RedisServer {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder for a server");
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let process = spawn(port, &folder, &settings, clock.as_ref());
        let mut server = RedisServer { port, folder, settings, clock, process };
        server.wait_until_ready();
        server
    }

    /// Sets its wall clock this many seconds ahead of the machine's, or behind it.
    ///
    /// # Panics
    ///
    /// If it was started without a clock of its own, or does not read it.
    #[track_caller]
    pub fn set_clock(&self, ahead: i64) {
        self.clock.as_ref().expect("it was started with a clock of its own").set(ahead);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
        let wanted = i64::try_from(now.as_secs()).expect("a small time") + ahead;
        until("a server that reads its clock", || {
            let shown: i64 = self.cli(&["TIME"]).lines().next()?.parse().ok()?;
            ((shown - wanted).abs() < 100).then_some(())
        });
    }

    /// Starts a replica of `master`, and waits until it is synced.
    #[track_caller]
    pub fn replica_of(master: &RedisServer, settings: &[&str]) -> RedisServer {
        let port = master.port.to_string();
        let mut all = vec!["--replicaof", "127.0.0.1", &port];
        all.extend(settings);
        let replica = RedisServer::start(&all);
        replica.wait_until_synced();
        replica
    }

    /// Waits until this replica has its master's data.
    #[track_caller]
    pub fn wait_until_synced(&self) {
        until("the link to the master", || self.cli(&["INFO", "replication"]).contains("link_status:up").then_some(()));
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder, for its files and its unix socket.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The output of `redis-cli` for a command, without a login.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> String {
        cli(self.port, words)
    }

    /// Kills it (`SIGKILL`).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it and starts it again, on the same port and folder.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = spawn(self.port, &self.folder, &self.settings, self.clock.as_ref());
        self.wait_until_ready();
    }

    /// Suspends it (`SIGSTOP`).
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Continues it (`SIGCONT`).
    pub fn resume(&self) {
        self.process.resume();
    }

    #[track_caller]
    fn wait_until_ready(&mut self) {
        until("a Redis that answers", || {
            if let Some(status) = self.process.try_wait() {
                let log = fs::read_to_string(self.folder.path().join("server.log")).unwrap_or_default();
                panic!("the Redis at port {} has ended, {status}: {log}", self.port);
            }
            let answer = self.cli(&["PING"]);
            (answer == "PONG" || answer.starts_with("NOAUTH")).then_some(())
        });
    }
}

impl Server for RedisServer {
    fn ports(&self) -> Vec<u16> {
        vec![self.port]
    }

    fn pause(&self) {
        RedisServer::pause(self);
    }

    fn resume(&self) {
        RedisServer::resume(self);
    }

    fn restart(&mut self) {
        RedisServer::restart(self);
    }
}

#[track_caller]
fn spawn(port: u16, folder: &TempDir, settings: &[String], clock: Option<&WallClock>) -> Process {
    let folder = folder.path().to_str().expect("a temporary folder has a plain name");
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]);
    command.args(["--logfile", "server.log", "--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0"]);
    command.args(settings);
    if let Some(clock) = clock {
        clock.preload_into(&mut command);
    }
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))
}

#[track_caller]
pub(super) fn cli(port: u16, words: &[&str]) -> String {
    // A suspended server does not answer.
    let mut command = Command::new("timeout");
    command.args(["30", "redis-cli", "-h", "127.0.0.1", "-p", &port.to_string()]).args(words).stdin(Stdio::null());
    match command.output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => panic!("redis-cli cannot be started: {error}; ./test.sh installs what the tests need"),
    }
}

/// The URL of a quorum of these servers.
pub fn redlock_url(servers: &[RedisServer]) -> String {
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("redlock://{}", hosts.join(","))
}

/// A prefix for keys that no other test of this process has.
pub fn unique_prefix() -> String {
    static PREFIXES: AtomicU32 = AtomicU32::new(0);
    format!("test{}:", PREFIXES.fetch_add(1, Ordering::Relaxed))
}
