//! [`ZooKeeper`]: ZooKeeper with one server or more, on private ports.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::etcd::reaper;
use crate::{Process, Proxy, Server, free_port, until};

/// A ZooKeeper ensemble on private ports, with its data in a temporary folder. Dropped, it is gone.
///
/// Its tick is half a second, so that tests need not wait long; the longest session is two minutes.
#[derive(Debug)]
pub struct ZooKeeper {
    servers: Vec<ZooKeeperServer>,
    /// The links from each server (the first index) to each other one, where they can be held.
    links: Vec<Vec<Option<Link>>>,
    _folder: TempDir,
}

/// One server of a [`ZooKeeper`].
#[derive(Debug)]
pub struct ZooKeeperServer {
    folder: PathBuf,
    properties: Vec<String>,
    client_port: u16,
    proxy: Proxy,
    process: Option<Process>,
    reaper: Option<Process>,
}

/// How one server reaches another: where a leader listens, and where votes are exchanged.
#[derive(Debug)]
struct Link {
    leader: Proxy,
    votes: Proxy,
}

/// ZooKeeper, whose manifest names most of what it needs, and what it does not name of what TLS needs.
const CLASSES: &str =
    "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

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

    /// As [`start`](ZooKeeper::start), with links between the servers that can be [held](ZooKeeper::isolate). A server that
    /// is cut off so goes on answering its clients for twenty seconds, and not only for five.
    pub fn start_linked(count: usize) -> ZooKeeper {
        ZooKeeper::start_with(count, true, &[], &[])
    }

    /// As [`start`](ZooKeeper::start), with more lines in the servers' configuration, and properties of their virtual
    /// machines.
    pub fn start_configured(lines: &[&str], properties: &[&str]) -> ZooKeeper {
        ZooKeeper::start_with(1, false, lines, properties)
    }

    fn start_with(count: usize, linked: bool, lines: &[&str], properties: &[&str]) -> ZooKeeper {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports: Vec<_> = (0..count).map(|_| (free_port(), free_port(), free_port())).collect();
        let link = |from: usize, to: usize| {
            let (_, leader, votes) = ports[to];
            (linked && from != to).then(|| Link { leader: Proxy::to(leader), votes: Proxy::to(votes) })
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
                reaper: None,
            });
        }
        let mut zookeeper = ZooKeeper { servers, links, _folder: folder };
        zookeeper.start_all();
        zookeeper
    }

    /// The servers' own addresses, as `host:port`.
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

    /// One server, to kill or to start.
    pub fn server_mut(&mut self, index: usize) -> &mut ZooKeeperServer {
        &mut self.servers[index]
    }

    /// Starts all servers that do not run, from their data, and waits until every one answers.
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

    /// The server that leads.
    pub fn leader(&self) -> usize {
        until("a leader", || (0..self.servers.len()).find(|&index| self.servers[index].mode() == Some("leader".into())))
    }

    /// Whether every server answers with a quorum behind it.
    pub fn is_healthy(&self) -> bool {
        self.servers.iter().all(|server| server.mode().is_some())
    }

    /// Cuts one server off from the others, not from its clients: what they send each other is held, and no connection
    /// is closed, so that it takes them a while to notice.
    ///
    /// # Panics
    ///
    /// If the servers have no links.
    pub fn isolate(&self, index: usize) {
        self.links_of(index).for_each(|link| {
            link.leader.hold();
            link.votes.hold();
        });
    }

    /// Lets an isolated server reach the others again. Connections from before are closed, and what was held on them is
    /// lost.
    ///
    /// # Panics
    ///
    /// If the servers have no links.
    pub fn rejoin(&self, index: usize) {
        self.links_of(index).for_each(|link| {
            for proxy in [&link.leader, &link.votes] {
                proxy.cut();
                proxy.forward();
            }
        });
    }

    fn links_of(&self, index: usize) -> impl Iterator<Item = &Link> {
        let others = (0..self.servers.len()).filter(move |other| *other != index);
        others.flat_map(move |other| {
            let link = |from: usize, to: usize| self.links[from][to].as_ref().expect("the servers are linked");
            [link(index, other), link(other, index)]
        })
    }

    /// Ends a session at a server that runs, as its client would end it.
    ///
    /// # Panics
    ///
    /// If no server answers.
    pub fn end_session(&self, session: i64) {
        let mut running = self.servers.iter().filter(|server| server.process.is_some());
        let port = running.next().map(|server| server.client_port).expect("a server runs");
        // Its client comes back at once, and may get in between.
        until("the end of a session", || close(port, session)?.then_some(()));
    }
}

/// Takes a session over and ends it, if its own client does not take it back in between; gives whether there was no such
/// session, or nothing if the server does not say.
fn close(port: u16, session: i64) -> Option<bool> {
    let mut connect = Vec::new();
    connect.extend(0_i32.to_be_bytes());
    connect.extend(0_i64.to_be_bytes());
    connect.extend(120_000_i32.to_be_bytes());
    connect.extend(session.to_be_bytes());
    connect.extend(16_i32.to_be_bytes());
    // What ZooKeeper derives a session's password by is no secret of any installation.
    connect.extend(java_bytes(session ^ 0xB341_5C00));
    connect.push(0);
    // Request 1, of the type that ends the session.
    let end = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    let packet = |body: &[u8]| [&(body.len() as i32).to_be_bytes(), body].concat();

    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
    stream.write_all(&[packet(&connect), packet(&end)].concat()).ok()?;
    // The length, the protocol's version and a time-out come before the session's number, which is zero if it is no more.
    let mut answer = [0; 20];
    stream.read_exact(&mut answer).ok()?;
    let gone = answer[12..] == [0; 8];
    // Until the server closes the connection, which it does when the session has ended, or was taken back.
    drop(stream.read_to_end(&mut Vec::new()));
    Some(gone)
}

/// Sixteen bytes of Java's generator of random numbers with this seed.
fn java_bytes(seed: i64) -> [u8; 16] {
    const MASK: u64 = (1 << 48) - 1;
    const FACTOR: u64 = 0x5_DEEC_E66D;
    let mut state = (seed as u64 ^ FACTOR) & MASK;
    let mut bytes = [0; 16];
    for four in bytes.chunks_mut(4) {
        state = state.wrapping_mul(FACTOR).wrapping_add(0xB) & MASK;
        four.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    bytes
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

impl Drop for ZooKeeperServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ZooKeeperServer {
    /// The link through which [`ZooKeeper::proxied`] reaches it.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Its own address, as `host:port`.
    pub fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.client_port)
    }

    /// Its process.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the server runs")
    }

    /// Kills it (`kill -9`).
    pub fn kill(&mut self) {
        // First, lest it should kill whoever has this process id by then.
        self.reaper = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Where its data are.
    pub fn data(&self) -> PathBuf {
        self.folder.join("version-2")
    }

    /// Starts it from its data, and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_serving();
    }

    fn spawn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = Command::new("java");
        command
            // It is to start soon, and lives for seconds.
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx256m"])
            .args(self.properties.iter().map(|property| format!("-D{property}")))
            .args(["-cp", CLASSES, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(self.folder.join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = Process::start(&mut command);
        self.reaper = Some(reaper(process.id()));
        self.process = Some(process);
    }

    fn wait_until_serving(&self) {
        until("a ZooKeeper that serves", || self.mode());
    }

    /// `leader`, `follower` or `standalone`; `None` if it does not serve.
    fn mode(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.client_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_javas_generator_are_known() {
        // new java.util.Random(42).nextInt() is -1170105035.
        assert_eq!(java_bytes(42)[..4], (-1_170_105_035_i32).to_le_bytes());
    }
}
