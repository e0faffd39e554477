//! [`Etcd`]: a cluster of one member or more.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::member::{ELECTION_TIMEOUT, EtcdMember};
use crate::{Proxy, Server, free_port, until};

/// An etcd cluster on private ports, with its data in a temporary folder. Dropped, it is killed and
/// its folder removed.
///
/// Its election time-out is half a second, so that tests need not wait long; the shortest TTL that
/// it grants is one second.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<EtcdMember>,
    _folder: TempDir,
}

impl Etcd {
    /// The election time-out of these clusters.
    pub const ELECTION_TIMEOUT: Duration = ELECTION_TIMEOUT;

    /// The default cluster token of etcd. The id of a cluster is derived from its token and the
    /// addresses of its members: a cluster that is recreated with the same token has the old id.
    pub const DEFAULT_CLUSTER_TOKEN: &str = "etcd-cluster";

    /// Starts a cluster and waits until every member answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(count: usize) -> Etcd {
        Etcd::start_cluster(count, false, &[])
    }

    /// Like [`start`](Etcd::start), with additional arguments for every member.
    pub fn start_with(count: usize, args: &[&str]) -> Etcd {
        Etcd::start_cluster(count, false, args)
    }

    /// Like [`start`](Etcd::start), with proxies between the members, for
    /// [`isolate`](Etcd::isolate).
    pub fn start_linked(count: usize) -> Etcd {
        Etcd::start_cluster(count, true, &[])
    }

    fn start_cluster(count: usize, linked: bool, args: &[&str]) -> Etcd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port())).collect();
        let peer_proxies: Vec<_> = ports.iter().map(|(_, port)| linked.then(|| Proxy::to(*port))).collect();
        let peer = |(i, ((_, port), link)): (usize, (&(u16, u16), &Option<Proxy>))| {
            format!("m{i}=http://127.0.0.1:{}", link.as_ref().map_or(*port, Proxy::port))
        };
        let cluster = ports.iter().zip(&peer_proxies).enumerate().map(peer).collect::<Vec<_>>().join(",");
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
            kill_on_exit: None,
        };
        let members = ports.into_iter().zip(peer_proxies).enumerate().map(member).collect();
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

    /// One member, mutable.
    pub fn member_mut(&mut self, index: usize) -> &mut EtcdMember {
        &mut self.members[index]
    }

    /// Starts all members that do not run, on their data, and waits until every one answers.
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

    /// Kills all members, deletes their data, and starts them at the same addresses with this
    /// token.
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
    /// If the backup is not valid, or they do not start.
    pub fn restore(&mut self, backup: &Path, token: &str) {
        self.kill_all();
        for member in &mut self.members {
            std::fs::remove_dir_all(&member.data).expect("the data of a member are removed");
            token.clone_into(&mut member.token);
            let mut restore = Command::new("etcdctl");
            restore.env("ETCDCTL_API", "3").args(["snapshot", "restore"]).arg(backup);
            restore.args(["--name", &member.name, "--initial-cluster", &member.cluster]);
            restore.args(["--initial-advertise-peer-urls", &member.advertised_peer_url()]);
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

    /// The index of the leader.
    pub fn leader(&self) -> usize {
        until("a leader", || (0..self.members.len()).find(|&index| self.members[index].is_leader()))
    }

    /// Partitions one member from the others, not from its clients.
    ///
    /// # Panics
    ///
    /// If the cluster was not started by [`start_linked`](Etcd::start_linked).
    pub fn isolate(&self, index: usize) {
        self.peer_proxy(index).cut();
        let pid = self.members[index].process().id();
        (0..self.members.len())
            .filter(|other| *other != index)
            .for_each(|other| self.peer_proxy(other).block_process(pid));
    }

    /// Heals the partition of an isolated member.
    ///
    /// # Panics
    ///
    /// If the cluster was not started by [`start_linked`](Etcd::start_linked).
    pub fn rejoin(&self, index: usize) {
        self.peer_proxy(index).forward();
        let pid = self.members[index].process().id();
        (0..self.members.len()).for_each(|other| self.peer_proxy(other).unblock_process(pid));
    }

    fn peer_proxy(&self, index: usize) -> &Proxy {
        self.members[index].peer_proxy.as_ref().expect("the members are linked")
    }

    /// Whether every member answers and has a quorum.
    pub fn is_healthy(&self) -> bool {
        self.members.iter().all(|member| member.http("GET /health", "").is_some_and(|body| body.contains("\"true\"")))
    }

    /// The index of the leader, ignoring this member, which may still believe in its own
    /// leadership.
    pub fn leader_other_than(&self, index: usize) -> usize {
        let others = || (0..self.members.len()).filter(move |other| *other != index);
        until("another leader", || others().find(|&other| self.members[other].is_leader()))
    }

    /// Number of proposals that the first member has committed.
    ///
    /// # Panics
    ///
    /// If the metric is missing.
    pub fn committed_proposals(&self) -> u64 {
        self.metric("etcd_server_proposals_committed_total").expect("etcd counts its proposals")
    }

    /// Number of transactions that the first member has answered, read-only ones included.
    ///
    /// # Panics
    ///
    /// If the metrics cannot be read.
    pub fn transactions(&self) -> u64 {
        let labels = "grpc_code=\"OK\",grpc_method=\"Txn\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"";
        // The metric is missing before the first transaction.
        self.metric(&format!("grpc_server_handled_total{{{labels}}}")).unwrap_or(0)
    }

    fn metric(&self, name: &str) -> Option<u64> {
        let metrics = until("the metrics of etcd", || self.members[0].http("GET /metrics", ""));
        let number = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        Some(number.parse::<f64>().expect("a number") as u64)
    }

    /// A command `etcdctl` for this cluster.
    pub fn etcdctl(&self) -> Command {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").arg("--endpoints").arg(self.endpoints().join(","));
        command
    }
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
