//! [`PostgresServer`] and [`PgBouncer`]: PostgreSQL on private ports.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, getuid, kill_process};
use tempfile::TempDir;

use crate::{Process, Server, free_port, until};

/// A PostgreSQL server on a private port, with a data folder of its own. It runs as an unprivileged user, as it must,
/// though the tests may be root's. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub struct PostgresServer {
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    process: Process,
    heir: Process,
}

impl PostgresServer {
    /// Starts a server with these settings, such as `["fsync=off"]`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(settings: &[&str]) -> PostgresServer {
        PostgresServer::launch(made(), settings)
    }

    /// A server whose wall clock the test [sets](PostgresServer::set_clock).
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start_with_clock() -> PostgresServer {
        let folder = made();
        fs::write(folder.path().join(CLOCK), "+0\n").expect("a clock");
        PostgresServer::launch(folder, &[])
    }

    /// Gives a file to the user as whom servers run, for that user only.
    ///
    /// # Panics
    ///
    /// If that cannot be done.
    #[track_caller]
    pub fn give_to_server_user(file: &Path) {
        if let Some(user) = other_user() {
            let done = Command::new("chown").arg(format!("{user}:")).arg(file).status();
            assert!(done.is_ok_and(|status| status.success()), "{} cannot be given to {user}", file.display());
        }
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(file, private).expect("a file of the test");
    }

    /// Sets its wall clock, and no other clock, to this much from the right time, such as `+3600` or `-3600` seconds.
    #[track_caller]
    pub fn set_clock(&self, offset: &str) {
        let (new, clock) = (self.folder.path().join("clock.new"), self.folder.path().join(CLOCK));
        fs::write(&new, format!("{offset}\n")).expect("a clock");
        // At once: a server that reads it meanwhile finds the one or the other.
        fs::rename(new, clock).expect("a clock");
    }

    /// A standby of `primary` that lags: the primary does not wait for it.
    #[track_caller]
    pub fn standby_of(primary: &PostgresServer, settings: &[&str]) -> PostgresServer {
        let folder = folder();
        let port = primary.port.to_string();
        run(program("pg_basebackup")
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-D", &data_of(&folder)])
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
        // Another process may take a port before the server does.
        for _ in 0..4 {
            let port = free_port();
            let mut process = launch(port, &folder, &settings);
            if ready(port, &mut process) {
                let heir = heir(&process, &folder);
                return PostgresServer { port, folder, settings, process, heir };
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

    /// What `psql` prints for these statements, one row a line, columns with `|`.
    ///
    /// # Panics
    ///
    /// If one of them fails.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        match self.try_psql(sql) {
            Ok(said) => said,
            Err(why) => panic!("psql: {sql}: {why}"),
        }
    }

    /// What `psql` prints for these statements, or what it complains of.
    ///
    /// # Errors
    ///
    /// What it complains of.
    #[track_caller]
    pub fn try_psql(&self, sql: &str) -> Result<String, String> {
        let output = self.psql_command().args(["-c", sql]).stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| missing("psql", &error));
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }

    /// A `psql` at this server, to be given statements.
    pub fn psql_command(&self) -> Command {
        let mut command = Command::new(bin("psql"));
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-U", "postgres"]);
        command.args(["-p", &self.port.to_string(), "-d", "postgres"]);
        command
    }

    /// Ends it, with all its processes, without a word (`kill -9`).
    pub fn kill(&mut self) {
        let family = family(self.process.id());
        self.process.kill();
        // Its children end by themselves when they see that it has ended; not all see it at once.
        signal_all(&family, Signal::KILL);
        until("the end of its processes", || family.iter().all(|pid| is_gone(*pid)).then_some(()));
    }

    /// Starts it again, at the same port and with the same data.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = launch(self.port, &self.folder, &self.settings);
        assert!(ready(self.port, &mut self.process), "PostgreSQL does not start again: {}", self.log());
        self.heir = heir(&self.process, &self.folder);
    }

    /// Stops it, with all its processes, where it stands.
    pub fn pause(&self) {
        self.process.pause();
        signal_all(&family(self.process.id()), Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        signal_all(&family(self.process.id()), Signal::CONT);
        self.process.resume();
    }

    /// Makes this standby a primary, and waits until it is one.
    #[track_caller]
    pub fn promote(&self) {
        self.psql("select pg_promote(true, 60)");
        until("a primary", || (self.psql("select pg_is_in_recovery()") == "f").then_some(()));
    }

    /// What it has logged.
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
        // Killed, it would leave its shared memory to the machine. Asked to quit it does so at once, unless it is paused.
        let family = family(self.process.id());
        if self.process.try_wait().is_none() {
            signal_all(&family, Signal::CONT);
            self.process.resume();
            self.process.signal(Signal::QUIT);
            let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while self.process.try_wait().is_none() && std::time::Instant::now() < until {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        drop(self.process.child().kill());
        signal_all(&family, Signal::KILL);
    }
}

/// A `pgbouncer` in transaction mode before a server, on a private port: a few server connections for any number of
/// clients. Dropped, it is killed.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    _process: Process,
    _heir: Process,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts it before `server`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(server: &PostgresServer) -> PgBouncer {
        PgBouncer::start_with(server, "")
    }

    /// The same, but it swallows settings that it does not know, where others refuse them.
    #[track_caller]
    pub fn start_ignoring_options(server: &PostgresServer) -> PgBouncer {
        PgBouncer::start_with(server, "ignore_startup_parameters = options,extra_float_digits\n")
    }

    #[track_caller]
    fn start_with(server: &PostgresServer, more: &str) -> PgBouncer {
        let folder = folder();
        let (users, ini) = (folder.path().join("users.txt"), folder.path().join("pgbouncer.ini"));
        fs::write(&users, "\"postgres\" \"\"\n").expect("a list of users");
        for _ in 0..4 {
            let port = free_port();
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = trust\nauth_file = {}\npool_mode = transaction\n\
                 default_pool_size = 4\nmax_client_conn = 1000\nlogfile = {}\n{more}",
                server.port,
                users.display(),
                folder.path().join("log").display(),
            );
            fs::write(&ini, text).expect("a configuration");
            let mut command = unprivileged(&bin("pgbouncer"));
            let quiet = command.arg("-q").arg(&ini).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Process::start(quiet);
            let up = until("a pgbouncer that listens", || match process.try_wait() {
                Some(_) => Some(false),
                None => std::net::TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
            });
            if up {
                let heir = heir(&process, &folder);
                return PgBouncer { port, _process: process, _heir: heir, _folder: folder };
            }
        }
        panic!("pgbouncer does not start: {}", fs::read_to_string(folder.path().join("log")).unwrap_or_default())
    }

    /// Its URL, of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }
}

/// The file that has the server's clock, in a folder where there is one.
const CLOCK: &str = "clock";

/// A folder that belongs to the user as whom the servers run. In memory where there is room: other tests write to the
/// disk at the same time, and a commit waits for it.
fn folder() -> TempDir {
    let folder = match has_room("/dev/shm") {
        true => tempfile::tempdir_in("/dev/shm"),
        false => tempfile::tempdir(),
    };
    let folder = folder.expect("a folder for a server");
    if let Some(user) = other_user() {
        let owner = format!("{user}:");
        let done = Command::new("chown").arg(owner).arg(folder.path()).status();
        assert!(done.is_ok_and(|status| status.success()), "the folder of a server cannot be given to {user}");
    }
    folder
}

/// Ends a server and removes its folder if this process ends without doing so, however it ends: a test program may leave
/// before all that it made is dropped.
#[track_caller]
fn heir(process: &Process, folder: &TempDir) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", "read -r _; kill -QUIT \"$1\"; sleep 1; rm -rf \"$2\"", "heir", &process.id().to_string()]);
    command.arg(folder.path()).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    Process::start(&mut command)
}

/// Whether a folder has room for some servers.
fn has_room(folder: &str) -> bool {
    const ROOM: u64 = 2 << 30;
    rustix::fs::statvfs(folder).is_ok_and(|found| found.f_bavail * found.f_frsize > ROOM)
}

/// A folder with the data of a new server.
#[track_caller]
fn made() -> TempDir {
    let folder = folder();
    let data = data_of(&folder);
    run(program("initdb").args(["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8"]).args([
        "--locale",
        "C",
        "--no-sync",
        "--wal-segsize",
        "1",
    ]));
    folder
}

fn data_of(folder: &TempDir) -> String {
    folder.path().join("data").to_str().expect("a temporary folder has a plain name").to_owned()
}

#[track_caller]
fn launch(port: u16, folder: &TempDir, settings: &[String]) -> Process {
    let clock = folder.path().join(CLOCK);
    let mut command = match clock.exists() {
        false => program("postgres"),
        true => {
            // Only in the server: what changes the user must not leave things behind that belong to the first.
            let mut command = unprivileged(Path::new("env"));
            command.arg(format!("LD_PRELOAD={}", faketime().display())).arg(bin("postgres"));
            command.env("FAKETIME_TIMESTAMP_FILE", clock);
            command.envs([("FAKETIME_NO_CACHE", "1"), ("DONT_FAKE_MONOTONIC", "1"), ("FAKETIME_DISABLE_SHM", "1")]);
            command
        }
    };
    let log = fs::File::options().create(true).append(true).open(folder.path().join("log")).expect("a log");
    command.args(["-D", &data_of(folder), "-p", &port.to_string()]);
    let own = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=",
        "shared_buffers=16MB",
        "max_connections=200",
        "max_wal_senders=4",
        "dynamic_shared_memory_type=mmap",
        // A new server is fed at once, and one that was killed starts at once.
        "checkpoint_timeout=1h",
        "min_wal_size=2MB",
        "logging_collector=off",
        "autovacuum_naptime=5s",
    ];
    for setting in own.into_iter().chain(settings.iter().map(String::as_str)) {
        command.args(["-c", setting]);
    }
    Process::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))
}

/// Waits until a server answers; false if it has ended.
#[track_caller]
fn ready(port: u16, process: &mut Process) -> bool {
    let port = port.to_string();
    until("a PostgreSQL that answers", || {
        if process.try_wait().is_some() {
            return Some(false);
        }
        let mut ask = Command::new(bin("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &port, "-d", "postgres", "-U", "postgres"]);
        let asked = ask.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.unwrap_or_else(|error| missing("pg_isready", &error)).success().then_some(true)
    })
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| missing(&command.get_program().to_string_lossy(), &error));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn missing(name: &str, error: &std::io::Error) -> ! {
    panic!("{name} cannot be started: {error}; ./test.sh installs what the tests need")
}

/// A program of the server, as its user.
fn program(name: &str) -> Command {
    unprivileged(&bin(name))
}

/// A program as a user who may run servers.
fn unprivileged(path: &Path) -> Command {
    let mut command = match other_user() {
        None => Command::new(path),
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--regid", user, "--clear-groups", "--"]).arg(path);
            command
        }
    };
    // The folder of the test may be closed to that user.
    command.current_dir("/");
    command
}

/// As whom servers run if the tests are root's: the user that Debian's package brings.
fn other_user() -> Option<&'static str> {
    getuid().is_root().then_some("postgres")
}

/// Where a program is: Debian keeps those of the server in a folder for each version, of which the newest is used.
fn bin(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .filter(|(_, folder)| folder.join("postgres").exists())
        .max_by_key(|(version, _)| *version);
    let sbin = PathBuf::from("/usr/sbin");
    let folders = newest.into_iter().map(|(_, folder)| folder).chain([sbin]);
    folders.map(|folder| folder.join(name)).find(|path| path.exists()).unwrap_or_else(|| name.into())
}

/// The library that sets a process's clock.
#[track_caller]
fn faketime() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let libraries = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let found = libraries.filter(|library| library.exists()).last();
    found.expect("libfaketime is there; ./test.sh installs what the tests need")
}

/// The processes that this one has started.
fn family(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name, which is in parentheses and may hold any: the state, and the parent.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X'])),
        Err(_) => true,
    }
}

fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(pid, signal);
    }
}
