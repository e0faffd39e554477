//! [`ZooKeeperServer`]: one server of an ensemble.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::kill_on_exit::KillOnExit;
use crate::{Process, Proxy, until};

/// One server of a [`ZooKeeper`](crate::ZooKeeper).
#[derive(Debug)]
pub struct ZooKeeperServer {
    pub(super) folder: PathBuf,
    pub(super) properties: Vec<String>,
    pub(super) client_port: u16,
    pub(super) proxy: Proxy,
    pub(super) process: Option<Process>,
    pub(super) kill_on_exit: Option<KillOnExit>,
}

/// Class path: ZooKeeper, whose manifest names most of its dependencies, and the ones that TLS
/// needs beside them.
const CLASS_PATH: &str =
    "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

impl Drop for ZooKeeperServer {
    fn drop(&mut self) {
        self.kill();
    }
}

impl ZooKeeperServer {
    /// The proxy of [`ZooKeeper::proxy_endpoints`](crate::ZooKeeper::proxy_endpoints).
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
        // First: later the process id may belong to another process.
        self.kill_on_exit = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// The folder of its data.
    pub fn data(&self) -> PathBuf {
        self.folder.join("version-2")
    }

    /// Starts it on its data, and waits until it serves.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_serving();
    }

    pub(super) fn spawn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let log = File::options().create(true).append(true).open(self.folder.join("log")).expect("a log");
        let mut command = Command::new("java");
        command
            // A fast start matters: it lives for seconds.
            .args(["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xshare:auto", "-Xmx256m"])
            .args(self.properties.iter().map(|property| format!("-D{property}")))
            .args(["-cp", CLASS_PATH, "org.apache.zookeeper.server.quorum.QuorumPeerMain"])
            .arg(self.folder.join("zoo.cfg"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = Process::start(&mut command);
        self.kill_on_exit = Some(KillOnExit::kill(process.id()));
        self.process = Some(process);
    }

    pub(super) fn wait_until_serving(&self) {
        until("a ZooKeeper that serves", || self.mode());
    }

    /// `leader`, `follower` or `standalone`; `None` if it does not serve.
    pub(super) fn mode(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.client_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        stream.write_all(b"srvr").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }
}
