//! [`RedisServer`], [`RedisSentinels`] and [`RedisCluster`]: Redis on private ports.

use std::fs;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::{Process, Server, WallClock, free_port, until};

/// A `redis-server` on a private port, with a folder of its own. Dropped, it is killed and its folder removed.
#[derive(Debug)]
pub struct RedisServer {
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
    clock: Option<WallClock>,
    process: Process,
}

impl RedisServer {
    /// Starts a server with these settings, such as `["--appendonly", "yes"]`; it saves nothing unless they say so.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start(settings: &[&str]) -> RedisServer {
        RedisServer::start_by(None, settings)
    }

    /// Starts a server with a wall clock of its own, which [`set_clock`](RedisServer::set_clock) sets.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[track_caller]
    pub fn start_with_clock(settings: &[&str]) -> RedisServer {
        RedisServer::start_by(Some(WallClock::new()), settings)
    }

    #[track_caller]
    fn start_by(clock: Option<WallClock>, settings: &[&str]) -> RedisServer {
        let port = free_port();
        let folder = tempfile::tempdir().expect("a folder for a server");
        let settings: Vec<_> = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let process = launch(port, &folder, &settings, clock.as_ref());
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
            let told: i64 = self.cli(&["TIME"]).lines().next()?.parse().ok()?;
            ((told - wanted).abs() < 100).then_some(())
        });
    }

    /// A replica of `master`, once it has all its data.
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

    /// The answer of `redis-cli` to a command, as a user without name or password.
    #[track_caller]
    pub fn cli(&self, words: &[&str]) -> String {
        cli(self.port, words)
    }

    /// Ends it without a word (`kill -9`).
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, at the same port and with the same folder.
    #[track_caller]
    pub fn restart(&mut self) {
        self.process.kill();
        self.process = launch(self.port, &self.folder, &self.settings, self.clock.as_ref());
        self.wait_until_ready();
    }

    /// Stops it where it stands.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets it go on.
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
fn launch(port: u16, folder: &TempDir, settings: &[String], clock: Option<&WallClock>) -> Process {
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
fn cli(port: u16, words: &[&str]) -> String {
    // A server that is paused answers nobody.
    let mut command = Command::new("timeout");
    command.args(["30", "redis-cli", "-h", "127.0.0.1", "-p", &port.to_string()]).args(words).stdin(Stdio::null());
    match command.output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => panic!("redis-cli cannot be started: {error}; ./test.sh installs what the tests need"),
    }
}

/// A master, a replica and three sentinels that watch them.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<(u16, TempDir, Process)>,
}

impl RedisSentinels {
    /// The name of the service that the sentinels know.
    pub const SERVICE: &str = "locks";

    /// Starts them; the servers have these settings.
    ///
    /// # Panics
    ///
    /// If they do not start, or do not find each other.
    #[track_caller]
    pub fn start(settings: &[&str]) -> RedisSentinels {
        let master = RedisServer::start(settings);
        let replica = RedisServer::replica_of(&master, settings);
        let mut all = RedisSentinels { servers: vec![master, replica], sentinels: Vec::new() };
        for _ in 0..3 {
            all.sentinels.push(watch(all.servers[0].port));
        }
        for (port, ..) in &all.sentinels {
            until("sentinels that know each other and the replica", || {
                let seen = cli(*port, &["SENTINEL", "MASTER", Self::SERVICE]);
                let field = |name: &str| seen.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                let all = field("num-other-sentinels").as_deref() == Some("2")
                    && field("num-slaves").as_deref() == Some("1")
                    && field("flags").as_deref() == Some("master");
                all.then_some(())
            });
        }
        all
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(port, ..)| format!("127.0.0.1:{port}")).collect();
        format!("redis-sentinel://{}/{}", hosts.join(","), Self::SERVICE)
    }

    /// The port of the server that all sentinels call the master, if they agree.
    pub fn master_port(&self) -> Option<u16> {
        let told = |port| cli(port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE]);
        let ports: Vec<_> = self.sentinels.iter().map(|(port, ..)| told(*port)).collect();
        ports.iter().all(|port| *port == ports[0]).then(|| ports[0].lines().nth(1)?.parse().ok())?
    }

    /// The master and the replica, in the order in which they were started.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The server at this port.
    pub fn server(&mut self, port: u16) -> &mut RedisServer {
        self.servers.iter_mut().find(|server| server.port == port).expect("a port of one of the servers")
    }

    /// Kills the master and waits until the sentinels have put the replica in its place, and all of them know it.
    #[track_caller]
    pub fn fail_over(&mut self) {
        let before = until("a master", || self.master_port());
        self.server(before).kill();
        let after = until("another master", || self.master_port().filter(|port| *port != before));
        until("the new master's role", || cli(after, &["ROLE"]).starts_with("master").then_some(()));
    }
}

#[track_caller]
fn watch(master: u16) -> (u16, TempDir, Process) {
    let (port, folder) = (free_port(), tempfile::tempdir().expect("a folder for a sentinel"));
    let path = folder.path().join("sentinel.conf");
    let name = RedisSentinels::SERVICE;
    let folder_name = folder.path().display();
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {folder_name}\nlogfile sentinel.log\n\
         sentinel monitor {name} 127.0.0.1 {master} 2\n\
         sentinel down-after-milliseconds {name} 5000\nsentinel failover-timeout {name} 5000\n"
    );
    fs::write(&path, text).expect("a sentinel's configuration");
    let process = Process::start(
        Command::new("redis-sentinel").arg(&path).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()),
    );
    (port, folder, process)
}

/// A cluster of three masters, with a replica each or none.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts six servers with these settings and makes them a cluster.
    ///
    /// # Panics
    ///
    /// If they do not become one.
    #[track_caller]
    pub fn start(settings: &[&str]) -> RedisCluster {
        RedisCluster::of(6, settings)
    }

    /// Three masters with these settings, and no replica.
    ///
    /// # Panics
    ///
    /// If they do not become a cluster.
    #[track_caller]
    pub fn start_without_replicas(settings: &[&str]) -> RedisCluster {
        RedisCluster::of(3, settings)
    }

    #[track_caller]
    fn of(count: usize, settings: &[&str]) -> RedisCluster {
        let one = || {
            let bus = free_port().to_string();
            // A busy machine stands still for seconds at times, and must not make masters of replicas by that.
            let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", &bus];
            all.extend(settings);
            RedisServer::start(&all)
        };
        let cluster = RedisCluster { servers: (0..count).map(|_| one()).collect() };
        let addresses: Vec<_> = cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]).args(&addresses).args([
            "--cluster-replicas",
            if count > 3 { "1" } else { "0" },
            "--cluster-yes",
        ]);
        let made = command.stdin(Stdio::null()).output().expect("redis-cli runs");
        assert!(made.status.success(), "no cluster: {}", String::from_utf8_lossy(&made.stdout));
        cluster.wait_until_whole();
        cluster
    }

    /// Every member knows the three masters, and every replica has its master's data.
    #[track_caller]
    fn wait_until_whole(&self) {
        for server in &self.servers {
            until("a cluster that is whole", || {
                let is_ok = server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                let masters = masters(server.port);
                let knows_all = masters.len() == 3 && masters.iter().all(|master| !master.slots.is_empty());
                let is_master = masters.iter().any(|master| master.port == server.port);
                let is_linked = is_master || server.cli(&["INFO", "replication"]).contains("link_status:up");
                (is_ok && knows_all && is_linked).then_some(())
            });
        }
    }

    /// Its URL, with three of its members.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().take(3).map(|server| format!("127.0.0.1:{}", server.port)).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// Its servers.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The slot of a key.
    #[track_caller]
    pub fn slot_of(&self, key: &str) -> u16 {
        until("a slot", || self.servers[0].cli(&["CLUSTER", "KEYSLOT", key]).parse().ok())
    }

    /// Moves a slot, with its keys, from the master that has it to another; gives the new owner's port.
    #[track_caller]
    pub fn move_slot(&self, slot: u16) -> u16 {
        let moving = self.start_slot_migration(slot);
        moving.finish();
        moving.to
    }

    /// Puts a slot on its way from the master that has it to another.
    #[track_caller]
    pub fn start_slot_migration(&self, slot: u16) -> SlotMigration {
        let (from, to) = self.owner_and_other(slot);
        let members = self.servers.iter().map(|server| server.port).collect();
        let moving = SlotMigration { slot, from, to, members };
        moving.set(to, "IMPORTING", from);
        moving.set(from, "MIGRATING", to);
        moving
    }

    fn owner_and_other(&self, slot: u16) -> (u16, u16) {
        until("a slot that has an owner, and another master", || {
            let masters = masters(self.servers[0].port);
            let owner = masters.iter().find(|master| master.has(slot))?.port;
            let other = masters.iter().find(|master| master.port != owner)?.port;
            Some((owner, other))
        })
    }
}

/// A master of a cluster, as one of its members sees it.
struct Master {
    port: u16,
    slots: Vec<(u16, u16)>,
}

impl Master {
    fn has(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// The masters that are up, as the member at this port sees them.
#[track_caller]
fn masters(port: u16) -> Vec<Master> {
    let nodes = cli(port, &["CLUSTER", "NODES"]);
    let master = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        words.get(2).filter(|flags| flags.contains("master") && !flags.contains("fail"))?;
        let port = words[1].split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let range = |range: &&str| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        };
        Some(Master { port, slots: words[8..].iter().filter_map(range).collect() })
    };
    nodes.lines().filter_map(master).collect()
}

/// A slot on its way from one master of a cluster to another.
#[derive(Debug)]
pub struct SlotMigration {
    slot: u16,
    members: Vec<u16>,
    /// The port of the master that has it.
    pub from: u16,
    /// The port of the master that gets it.
    pub to: u16,
}

impl SlotMigration {
    #[track_caller]
    fn set(&self, at: u16, what: &str, other: u16) {
        until("a slot that is set", || {
            let id = cli(other, &["CLUSTER", "MYID"]);
            (cli(at, &["CLUSTER", "SETSLOT", &self.slot.to_string(), what, &id]) == "OK").then_some(())
        });
    }

    /// Moves one key.
    #[track_caller]
    pub fn move_key(&self, key: &str) {
        until("a key that has moved", || {
            let done = cli(self.from, &["MIGRATE", "127.0.0.1", &self.to.to_string(), key, "0", "5000"]);
            matches!(done.as_str(), "OK" | "NOKEY").then_some(())
        });
    }

    /// Moves what is left, makes the other the owner, and waits until all members know it: a replica that does not could
    /// not take the slot over.
    #[track_caller]
    pub fn finish(&self) {
        let left = || cli(self.from, &["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), "1000"]);
        until("a slot without keys", || {
            let left = left();
            left.lines().for_each(|key| self.move_key(key));
            left.is_empty().then_some(())
        });
        self.set(self.to, "NODE", self.to);
        self.set(self.from, "NODE", self.to);
        for port in &self.members {
            until("a slot whose owner is known", || {
                masters(*port).iter().any(|master| master.port == self.to && master.has(self.slot)).then_some(())
            });
        }
    }
}

/// The URL of a quorum of these servers.
pub fn redlock_url(servers: &[RedisServer]) -> String {
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    format!("redlock://{}", hosts.join(","))
}

/// A prefix for keys that no other test of this process uses.
pub fn unique_prefix() -> String {
    static PREFIXES: AtomicU32 = AtomicU32::new(0);
    format!("test{}:", PREFIXES.fetch_add(1, Ordering::Relaxed))
}
