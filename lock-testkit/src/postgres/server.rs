//! [`PostgresServer`]: a server on a private port.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use super::data_folder::{data_path, new_database, new_folder};
use super::process_tree::{children_of, is_gone, signal_all};
use super::programs::{faketime_library, not_installed, path_of, run, server_program, server_user, unprivileged};
use crate::kill_on_exit::KillOnExit;
use crate::{Process, Server, free_port, until};

/// A PostgreSQL server on a private port, with its own data folder. It runs as an unprivileged
/// user, as it must, even if the tests run as root. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    process: Process,
    kill_on_exit: KillOnExit,
}

impl PostgresServer {
    /// Starts a server with these settings, such as `["fsync=off"]`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(settings: &[&str]) -> PostgresServer {
        PostgresServer::launch(new_database(), settings)
    }

    /// Starts a server with its own wall clock, which [`set_clock`](PostgresServer::set_clock)
    /// sets.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start_with_clock() -> PostgresServer {
        let folder = new_database();
        fs::write(folder.path().join(CLOCK_FILE), "+0\n").expect("a clock");
        PostgresServer::launch(folder, &[])
    }

    /// Makes the user that servers run as the owner of a file, and its only reader.
    ///
    /// # Panics
    ///
    /// If that cannot be done.
    #[track_caller]
    pub fn give_to_server_user(file: &Path) {
        if let Some(user) = server_user() {
            let done = Command::new("chown").arg(format!("{user}:")).arg(file).status();
            assert!(done.is_ok_and(|status| status.success()), "{} cannot be given to {user}", file.display());
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(file, private).expect("a file of the test");
    }

    /// Sets the offset of its wall clock, and of no other clock, in seconds, such as `+3600` or
    /// `-3600`.
    #[track_caller]
    pub fn set_clock(&self, offset: &str) {
        let (new, clock) = (self.folder.path().join("clock.new"), self.folder.path().join(CLOCK_FILE));
        fs::write(&new, format!("{offset}\n")).expect("a clock");
        // Atomic: a concurrent reader sees the old or the new offset.
        fs::rename(new, clock).expect("a clock");
    }

    /// Starts an asynchronous standby of `primary`.
    #[track_caller]
    pub fn standby_of(primary: &PostgresServer, settings: &[&str]) -> PostgresServer {
        let folder = new_folder();
        let port = primary.port.to_string();
        run(server_program("pg_basebackup")
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", &data_path(&folder)])
            .args(["-R", "-X", "stream", "-c", "fast", "--no-sync"]));
        let standby = PostgresServer::launch(folder, settings);
        until("a standby that is fed", || {
            (primary.psql("select count(*) from pg_stat_replication where state = 'streaming'") != "0").then_some(())
        });
        standby
    }

    #[track_caller]
    fn launch(folder: TempDir, settings: &[&str]) -> PostgresServer {
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        // Another process may take the port before the server binds it.
        for _ in 0..4 {
            let port = free_port();
            let mut process = spawn(port, &folder, &settings);
            if wait_until_ready(port, &mut process) {
                let kill_on_exit = KillOnExit::quit_and_remove(process.id(), folder.path());
                return PostgresServer { port, folder, settings, process, kill_on_exit };
            }
        }
        panic!("PostgreSQL does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default())
    }

    /// Its port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The output of `psql` for these statements: one row a line, columns separated by `|`.
    ///
    /// # Panics
    ///
    /// If one of them fails.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        match self.try_psql(sql) {
            Ok(output) => output,
            Err(error) => panic!("psql: {sql}: {error}"),
        }
    }

    /// Like [`psql`](PostgresServer::psql), for statements that may fail.
    ///
    /// # Errors
    ///
    /// The error output of `psql`.
    #[track_caller]
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql_command().args(["-c", sql]).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| not_installed("psql", &error));
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// A `psql` command connected to this server, without statements.
    pub fn psql_command(&self) -> Command {
        let mut command = Command::new(path_of("psql"));
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        command.args(["-p", &self.port.to_string(), "-d", "postgres"]);
        command
    }

    /// Kills it with all its processes (`SIGKILL`).
    pub fn kill(&mut self) {
        let children = children_of(self.process.id());
        self.process.kill();
        // Its children end by themselves when they notice; not all notice at once.
        signal_all(&children, Signal::KILL);
        until("the end of its processes", || children.iter().all(|pid| is_gone(*pid)).then_some(()));
    }

    /// Kills it and starts it again, on the same port and data.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = spawn(self.port, &self.folder, &self.settings);
        assert!(wait_until_ready(self.port, &mut self.process), "PostgreSQL does not start again: {}", self.log());
        self.kill_on_exit = KillOnExit::quit_and_remove(self.process.id(), self.folder.path());
    }

    /// Suspends it with all its processes (`SIGSTOP`).
    pub fn pause(&self) {
        self.process.pause();
        signal_all(&children_of(self.process.id()), Signal::STOP);
    }

    /// Continues it (`SIGCONT`).
    pub fn resume(&self) {
        signal_all(&children_of(self.process.id()), Signal::CONT);
        self.process.resume();
    }

    /// Promotes this standby, and waits until it is the primary.
    #[track_caller]
    pub fn promote(&self) {
        self.psql("select pg_promote(true, 60)");
        until("a primary", || (self.psql("select pg_is_in_recovery()") == "f").then_some(()));
    }

    /// The content of its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Server for PostgresServer {
    fn ports(&self) -> Vec<u16> {
        vec![self.port()]
    }

    fn pause(&self) {
        PostgresServer::pause(self);
    }

    fn resume(&self) {
        PostgresServer::resume(self);
    }

    fn restart(&mut self) {
        PostgresServer::restart(self);
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        // A killed server leaks its shared memory. On SIGQUIT it exits at once, unless it is
        // suspended.
        let children = children_of(self.process.id());
        if self.process.try_wait().is_none() {
            signal_all(&children, Signal::CONT);
            self.process.resume();
            self.process.signal(Signal::QUIT);
            let deadline = Instant::now() + Duration::from_secs(10);
            while self.process.try_wait().is_none() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop(self.process.child().kill());
        signal_all(&children, Signal::KILL);
    }
}

/// Name of the file with the offset of the server's clock. It is missing where the server has no
/// clock of its own.
const CLOCK_FILE: &str = "clock";

#[track_caller]
fn spawn(port: u16, folder: &TempDir, settings: &[String]) -> Process {
    let clock = folder.path().join(CLOCK_FILE);
    let mut command = match clock.exists() {
        false => server_program("postgres"),
        true => {
            // Only in the server: `setpriv` would leave files of faketime behind that belong to the
            // first user.
            let mut command = unprivileged(Path::new("env"));
            command.arg(format!("LD_PRELOAD={}", faketime_library().display())).arg(path_of("postgres"));
            command.env("FAKETIME_TIMESTAMP_FILE", clock);
            command.envs([("FAKETIME_NO_CACHE", "1"), ("DONT_FAKE_MONOTONIC", "1"), ("FAKETIME_DISABLE_SHM", "1")]);
            command
        }
    };
    let log = fs::File::options().create(true).append(true).open(folder.path().join("log")).expect("a log");
    command.args(["-D", &data_path(folder), "-p", &port.to_string()]);
    let defaults = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "shared_buffers=16MB",
        "max_connections=200",
        "max_wal_senders=4",
        "dynamic_shared_memory_type=mmap",
        // A new standby is fed at once, and a killed server starts at once.
        "checkpoint_timeout=1h",
        "min_wal_size=2MB",
        "logging_collector=off",
        "autovacuum_naptime=5s",
    ];
    for setting in defaults.into_iter().chain(settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))
}

/// Waits until a server answers; returns false if it has exited.
#[track_caller]
fn wait_until_ready(port: u16, process: &mut Process) -> bool {
    let port = port.to_string();
    until("a PostgreSQL that answers", || {
        if process.try_wait().is_some() {
            return Some(false);
        }
        let mut probe = Command::new(path_of("pg_isready"));
        probe.args(["-q", "-h", "127.0.0.1", "-p", &port, "-d", "postgres", "-U", "postgres"]);
        let status = probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.unwrap_or_else(|error| not_installed("pg_isready", &error)).success().then_some(true)
    })
}
