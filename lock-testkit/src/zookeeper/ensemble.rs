//! [`ZooKeeper`]: an ensemble of one server or more.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::server::ZooKeeperServer;
use super::session::end_session;
use crate::{Proxy, Server, free_port, until};

/// A ZooKeeper ensemble on private ports, with its data in a temporary folder. Dropped, it is
/// killed and its folder removed.
///
/// Its tick is half a second, so that tests need not wait long; the longest session is two minutes.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Vec<ZooKeeperServer>,
    /// The proxies from each server (the first index) to each other one, in a linked ensemble.
    links: Vec<Vec<Option<PeerLink>>>,
    _folder: TempDir,
}

/// The proxies by which one server reaches another: the leader's port and the election port.
#[derive(Debug)]
struct PeerLink {
    leader: Proxy,
    votes: Proxy,
}

impl ZooKeeper {
    /// The tick of these ensembles.
    pub const TICK: Duration = Duration::from_millis(500);

    /// Starts an ensemble and waits until every server answers.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(count: usize) -> ZooKeeper {
        ZooKeeper::start_with(count, false, &[], &[])
    }

    /// Like [`start`](ZooKeeper::start), with proxies between the servers, for
    /// [`isolate`](ZooKeeper::isolate). An isolated server answers its clients for twenty seconds,
    /// and not only for five.
    pub fn start_linked(count: usize) -> ZooKeeper {
        ZooKeeper::start_with(count, true, &[], &[])
    }

    /// Like [`start`](ZooKeeper::start), with additional lines in the servers' configuration, and
    /// properties of their virtual machines.
    pub fn start_configured(lines: &[&str], properties: &[&str]) -> ZooKeeper {
        ZooKeeper::start_with(1, false, lines, properties)
    }

    fn start_with(count: usize, linked: bool, lines: &[&str], properties: &[&str]) -> ZooKeeper {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port(), free_port())).collect();
        let link = |from: usize, to: usize| {
            let (_, leader, votes) = ports[to];
            (linked && from != to).then(|| PeerLink { leader: Proxy::to(leader), votes: Proxy::to(votes) })
        };
        let links: Vec<Vec<_>> = (0..count).map(|from| (0..count).map(|to| link(from, to)).collect()).collect();
        let mut servers = Vec::new();
        for (index, (client_port, ..)) in ports.iter().enumerate() {
            let own = folder.path().join(format!("s{index}"));
            std::fs::create_dir(&own).expect("a folder");
            std::fs::write(own.join("myid"), (index + 1).to_string()).expect("a server's number");
            let mut config = configuration(&own, *client_port, if linked { 40 } else { 10 });
            for (to, (_, leader, votes)) in ports.iter().enumerate().filter(|_| count > 1) {
                let (leader, votes) = match &links[index][to] {
                    Some(link) => (link.leader.port(), link.votes.port()),
                    None => (*leader, *votes),
                };
                config += &format!("server.{}=127.0.0.1:{leader}:{votes}\n", to + 1);
            }
            lines.iter().for_each(|line| config += &format!("{line}\n"));
            std::fs::write(own.join("zoo.cfg"), config).expect("a configuration");
            servers.push(ZooKeeperServer {
                folder: own,
                properties: properties.iter().map(|property| (*property).to_owned()).collect(),
                client_port: *client_port,
                proxy: Proxy::to(*client_port),
                process: None,
                kill_on_exit: None,
            });
        }
        let mut zookeeper = ZooKeeper { servers, links, _folder: folder };
        zookeeper.start_all();
        zookeeper
    }

    /// The addresses of the servers, as `host:port`.
    pub fn endpoints(&self) -> Vec<String> {
        self.servers.iter().map(ZooKeeperServer::endpoint).collect()
    }

    /// The addresses of the servers' [proxies](ZooKeeperServer::proxy), as `host:port`.
    pub fn proxy_endpoints(&self) -> Vec<String> {
        self.servers.iter().map(|server| format!("127.0.0.1:{}", server.proxy.port())).collect()
    }

    /// One server.
    pub fn server(&self, index: usize) -> &ZooKeeperServer {
        &self.servers[index]
    }

    /// One server, mutable.
    pub fn server_mut(&mut self, index: usize) -> &mut ZooKeeperServer {
        &mut self.servers[index]
    }

    /// Starts all servers that do not run, on their data, and waits until every one answers.
    pub fn start_all(&mut self) {
        for server in &mut self.servers {
            server.spawn();
        }
        for server in &self.servers {
            server.wait_until_serving();
        }
    }

    /// Kills all servers at once (`kill -9`).
    pub fn kill_all(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
    }

    /// The index of the leader.
    pub fn leader(&self) -> usize {
        until("a leader", || (0..self.servers.len()).find(|&index| self.servers[index].mode() == Some("leader".into())))
    }

    /// Whether every server answers and has a quorum.
    pub fn is_healthy(&self) -> bool {
        self.servers.iter().all(|server| server.mode().is_some())
    }

    /// Partitions one server from the others, not from its clients. Their traffic is held and no
    /// connection is closed, so that it takes them a while to notice.
    ///
    /// # Panics
    ///
    /// If the ensemble was not started by [`start_linked`](ZooKeeper::start_linked).
    pub fn isolate(&self, index: usize) {
        self.links_of(index).for_each(|link| {
            link.leader.hold();
            link.votes.hold();
        });
    }

    /// Heals the partition of an isolated server. Its old connections are closed, and the traffic
    /// held on them is lost.
    ///
    /// # Panics
    ///
    /// If the ensemble was not started by [`start_linked`](ZooKeeper::start_linked).
    pub fn rejoin(&self, index: usize) {
        self.links_of(index).for_each(|link| {
            for proxy in [&link.leader, &link.votes] {
                proxy.cut();
                proxy.forward();
            }
        });
    }

    fn links_of(&self, index: usize) -> impl Iterator<Item = &PeerLink> {
        let others = (0..self.servers.len()).filter(move |other| *other != index);
        others.flat_map(move |other| {
            let link = |from: usize, to: usize| self.links[from][to].as_ref().expect("the servers are linked");
            [link(index, other), link(other, index)]
        })
    }

    /// Ends a session at a running server, as its client would.
    ///
    /// # Panics
    ///
    /// If no server answers.
    pub fn end_session(&self, session: i64) {
        let mut running = self.servers.iter().filter(|server| server.process.is_some());
        let port = running.next().map(|server| server.client_port).expect("a server runs");
        // Its client reconnects at once, and may take the session back.
        until("the end of a session", || end_session(port, session)?.then_some(()));
    }
}

fn configuration(folder: &Path, client_port: u16, sync_limit: u32) -> String {
    format!(
        "tickTime={}\ninitLimit=40\nsyncLimit={sync_limit}\ndataDir={}\nclientPort={client_port}\n\
         clientPortAddress=127.0.0.1\nmaxClientCnxns=0\nmaxSessionTimeout=120000\nadmin.enableServer=false\n\
         4lw.commands.whitelist=srvr\n",
        ZooKeeper::TICK.as_millis(),
        folder.display()
    )
}

impl Server for ZooKeeper {
    fn ports(&self) -> Vec<u16> {
        self.servers.iter().map(|server| server.client_port).collect()
    }

    fn pause(&self) {
        self.servers.iter().for_each(|server| server.process().pause());
    }

    fn resume(&self) {
        self.servers.iter().for_each(|server| server.process().resume());
    }

    fn restart(&mut self) {
        self.kill_all();
        self.start_all();
    }
}
