//! [`Etcd`]: etcd with one member or more, on private ports.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Process, Proxy, Server, free_port, until};

/// An etcd cluster on private ports, with its data in a temporary folder. Dropped, it is gone.
///
/// Its election time-out is half a second, so that tests need not wait long; the shortest TTL that it grants is one
/// second.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<EtcdMember>,
    _folder: TempDir,
}

/// One member of an [`Etcd`].
#[derive(Debug)]
pub struct EtcdMember {
    name: String,
    data: PathBuf,
    log: PathBuf,
    client_port: u16,
    peer_port: u16,
    cluster: String,
    /// What the id of the cluster is made of, beside the members' addresses.
    token: String,
    args: Vec<String>,
    proxy: Proxy,
    /// The link by which the other members reach it, where there is one.
    peer_proxy: Option<Proxy>,
    process: Option<Process>,
    reaper: Option<Process>,
}

impl Etcd {
    /// The election time-out of these clusters.
    pub const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

    /// What the id of a cluster is made of, beside the addresses of its members, unless a test says otherwise: etcd's
    /// own default. A cluster that begins anew with it has the old one's id.
    pub const DEFAULT_CLUSTER_TOKEN: &str = "etcd-cluster";

    /// Starts a cluster and waits until every member answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(count: usize) -> Etcd {
        Etcd::start_as(count, false, &[])
    }

    /// As [`start`](Etcd::start), with more arguments for every member.
    pub fn start_with(count: usize, args: &[&str]) -> Etcd {
        Etcd::start_as(count, false, args)
    }

    /// As [`start`](Etcd::start), with links between the members that can be [cut](Etcd::isolate).
    pub fn start_linked(count: usize) -> Etcd {
        Etcd::start_as(count, true, &[])
    }

    fn start_as(count: usize, linked: bool, args: &[&str]) -> Etcd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
        let links: Vec<_> = ports.iter().map(|(_, port)| linked.then(|| Proxy::to(*port))).collect();
        let peer = |(i, ((_, port), link)): (usize, (&(u16, u16), &Option<Proxy>))| {
            format!("m{i}=http://127.0.0.1:{}", link.as_ref().map_or(*port, Proxy::port))
        };
        let cluster = ports.iter().zip(&links).enumerate().map(peer).collect::<Vec<_>>().join(",");
        let member = |(i, ((client_port, peer_port), peer_proxy)): (usize, ((u16, u16), Option<Proxy>))| EtcdMember {
            name: format!("m{i}"),
            data: folder.path().join(format!("m{i}")),
            log: folder.path().join(format!("m{i}.log")),
            client_port,
            peer_port,
            cluster: cluster.clone(),
            token: Etcd::DEFAULT_CLUSTER_TOKEN.to_owned(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            proxy: Proxy::to(client_port),
            peer_proxy,
            process: None,
            reaper: None,
        };
        let members = ports.into_iter().zip(links).enumerate().map(member).collect();
        let mut etcd = Etcd { members, _folder: folder };
        etcd.start_all();
        etcd
    }

    /// The members' own addresses, as `host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.client_port)).collect()
    }

    /// The addresses of the members' [proxies](EtcdMember::proxy), as `host:port`.
    pub fn proxy_endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| format!("127.0.0.1:{}", member.proxy.port())).collect()
    }

    /// One member.
    pub fn member(&self, index: usize) -> &EtcdMember {
        &self.members[index]
    }

    /// One member, to kill or to start.
    pub fn member_mut(&mut self, index: usize) -> &mut EtcdMember {
        &mut self.members[index]
    }

    /// Starts all members that do not run, from their data, and waits until every one answers.
    pub fn start_all(&mut self) {
        for member in &mut self.members {
            member.spawn();
        }
        for member in &self.members {
            member.wait_until_healthy();
        }
    }

    /// Kills all members at once (`kill -9`).
    pub fn kill_all(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
    }

    /// Kills all members, throws their data away, and starts them anew at the same addresses, with this token.
    ///
    /// # Panics
    ///
    /// If they do not start.
    pub fn recreate(&mut self, token: &str) {
        self.kill_all();
        for member in &mut self.members {
            std::fs::remove_dir_all(&member.data).expect("the data of a member are removed");
            token.clone_into(&mut member.token);
        }
        self.start_all();
    }

    /// Kills all members, and starts them at the same addresses from a backup, with this token.
    ///
    /// # Panics
    ///
    /// If the backup is none, or they do not start.
    pub fn restore(&mut self, backup: &Path, token: &str) {
        self.kill_all();
        for member in &mut self.members {
            std::fs::remove_dir_all(&member.data).expect("the data of a member are removed");
            token.clone_into(&mut member.token);
            let mut restore = Command::new("etcdctl");
            restore.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup);
            restore.args(["--name", &member.name, "--initial-cluster", &member.cluster]);
            restore.args(["--initial-advertise-peer-urls", &member.advertised()]);
            restore.args(["--initial-cluster-token", token, "--data-dir"]).arg(&member.data);
            let output = restore.output().expect("etcdctl runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        self.start_all();
    }

    /// Writes a backup of the first member's data.
    ///
    /// # Panics
    ///
    /// If that fails.
    pub fn back_up(&self, to: &Path) {
        let output = self.etcdctl().args(["snapshot", "save"]).arg(to).output().expect("etcdctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The member that leads.
    pub fn leader(&self) -> usize {
        until("a leader", || (0..self.members.len()).find(|&index| self.members[index].leads()))
    }

    /// Cuts one member off from the others, not from its clients.
    ///
    /// # Panics
    ///
    /// If the members have no links.
    pub fn isolate(&self, index: usize) {
        self.link(index).cut();
        let pid = self.members[index].process().id();
        (0..self.members.len()).filter(|other| *other != index).for_each(|other| self.link(other).block_process(pid));
    }

    /// Lets an isolated member reach the others again.
    ///
    /// # Panics
    ///
    /// If the members have no links.
    pub fn rejoin(&self, index: usize) {
        self.link(index).forward();
        let pid = self.members[index].process().id();
        (0..self.members.len()).for_each(|other| self.link(other).unblock_process(pid));
    }

    fn link(&self, index: usize) -> &Proxy {
        self.members[index].peer_proxy.as_ref().expect("the members are linked")
    }

    /// Whether every member answers with a quorum behind it.
    pub fn is_healthy(&self) -> bool {
        self.members.iter().all(|member| member.get("GET /health", "").is_some_and(|body| body.contains("\"true\"")))
    }

    /// The member that leads, but for one of which that is no news.
    pub fn leader_other_than(&self, index: usize) -> usize {
        let others = || (0..self.members.len()).filter(move |other| *other != index);
        until("another leader", || others().find(|&other| self.members[other].leads()))
    }

    /// How many proposals the first member has committed.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub fn committed_proposals(&self) -> u64 {
        self.counted("etcd_server_proposals_committed_total").expect("etcd counts its proposals")
    }

    /// How many transactions the first member has answered, with those that only read.
    ///
    /// # Panics
    ///
    /// If it does not say.
    pub fn transactions(&self) -> u64 {
        let labels = "grpc_code=\"OK\",grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        // It is not counted before the first one.
        self.counted(&format!("grpc_server_handled_total{{{labels}}}")).unwrap_or(0)
    }

    fn counted(&self, what: &str) -> Option<u64> {
        let metrics = until("the metrics of etcd", || self.members[0].get("GET /metrics", ""));
        let number = metrics.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(' '))?;
        Some(number.parse::<f64>().expect("a number") as u64)
    }

    /// A command `etcdctl` for this cluster.
    pub fn etcdctl(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoints().join(","));
        command
    }
}

/// A process that kills `pid` when this one has ended without doing so: a test process may end without dropping what it
/// has, and then nobody would stop its servers.
pub(crate) fn reaper(pid: u32) -> Process {
    let script = "read _; kill -9 \"$0\"";
    Process::start(Command::new("sh").arg("-c").arg(script).arg(pid.to_string()).stdin(Stdio::piped()))
}

impl Server for Etcd {
    fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.client_port).collect()
    }

    fn pause(&self) {
        self.members.iter().for_each(|member| member.process().pause());
    }

    fn resume(&self) {
        self.members.iter().for_each(|member| member.process().resume());
    }

    fn restart(&mut self) {
        self.kill_all();
        self.start_all();
    }
}

impl Drop for EtcdMember {
    fn drop(&mut self) {
        self.kill();
    }
}

impl EtcdMember {
    /// The link through which [`Etcd::proxied`] reaches it.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the member runs")
    }

    /// Kills it (`kill -9`).
    pub fn kill(&mut self) {
        // First, lest it should kill whoever has this process id by then.
        self.reaper = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it from its data, and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_healthy();
    }

    fn spawn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let advertised = self.advertised();
        let log = File::options().create(true).append(true).open(&self.log).expect("a log");
        let mut command = Command::new("etcd");
        command
            .args(["--name", &self.name, "--initial-cluster", &self.cluster, "--initial-cluster-state", "new"])
            .args(["--initial-cluster-token", &self.token])
            .args(&self.args)
            .arg("--data-dir")
            .arg(&self.data)
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &advertised])
            .args(["--heartbeat-interval", "50", "--election-timeout", &Etcd::ELECTION_TIMEOUT.as_millis().to_string()])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = Process::start(&mut command);
        self.reaper = Some(reaper(process.id()));
        self.process = Some(process);
    }

    /// Where the other members reach it.
    fn advertised(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_proxy.as_ref().map_or(self.peer_port, Proxy::port))
    }

    fn wait_until_healthy(&self) {
        until("a healthy etcd", || self.get("GET /health", "").filter(|body| body.contains("\"true\"")));
    }

    fn leads(&self) -> bool {
        let Some(status) = self.get("POST /v3/maintenance/status", "{}") else { return false };
        let text = |key: &str| {
            let (_, rest) = status.split_once(&format!("\"{key}\":\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        text("leader").is_some_and(|leader| Some(leader) == text("member_id"))
    }

    /// One request over plain HTTP; `None` if it brings no answer soon.
    fn get(&self, request: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.client_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let length = body.len();
        let head = format!("{request} HTTP/1.0\r\nHost: etcd\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(head.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}
