//! [`EtcdMember`]: one member of a cluster.

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::kill_on_exit::KillOnExit;
use crate::{Process, Proxy, until};

/// The election time-out.
pub(super) const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

/// One member of an [`Etcd`](crate::Etcd).
#[derive(Debug)]
pub struct EtcdMember {
    pub(super) name: String,
    pub(super) data: PathBuf,
    pub(super) log: PathBuf,
    pub(super) client_port: u16,
    pub(super) peer_port: u16,
    pub(super) cluster: String,
    /// The cluster token.
    pub(super) token: String,
    pub(super) args: Vec<String>,
    pub(super) proxy: Proxy,
    /// The proxy by which the other members reach it, in a linked cluster.
    pub(super) peer_proxy: Option<Proxy>,
    pub(super) process: Option<Process>,
    pub(super) kill_on_exit: Option<KillOnExit>,
}

impl Drop for EtcdMember {
    fn drop(&mut self) {
        self.kill();
    }
}

impl EtcdMember {
    /// The proxy of [`Etcd::proxy_endpoints`](crate::Etcd::proxy_endpoints).
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
        // First: later the process id may belong to another process.
        self.kill_on_exit = None;
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// Starts it on its data, and waits until it answers.
    pub fn start(&mut self) {
        self.spawn();
        self.wait_until_healthy();
    }

    pub(super) fn spawn(&mut self) {
        if self.process.is_some() {
            return;
        }
        let client = format!("http://127.0.0.1:{}", self.client_port);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let advertised = self.advertised_peer_url();
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
            .args(["--heartbeat-interval", "50", "--election-timeout", &ELECTION_TIMEOUT.as_millis().to_string()])
            .args(["--logger", "zap", "--log-level", "warn"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let process = Process::start(&mut command);
        self.kill_on_exit = Some(KillOnExit::kill(process.id()));
        self.process = Some(process);
    }

    /// The URL by which the other members reach it.
    pub(super) fn advertised_peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer_proxy.as_ref().map_or(self.peer_port, Proxy::port))
    }

    pub(super) fn wait_until_healthy(&self) {
        until("a healthy etcd", || self.http("GET /health", "").filter(|body| body.contains("\"true\"")));
    }

    pub(super) fn is_leader(&self) -> bool {
        let Some(status) = self.http("POST /v3/maintenance/status", "{}") else { return false };
        let text = |key: &str| {
            let (_, rest) = status.split_once(&format!("\"{key}\":\""))?;
            rest.split_once('"').map(|(value, _)| value.to_owned())
        };
        text("leader").is_some_and(|leader| Some(leader) == text("member_id"))
    }

    /// Sends one request over plain HTTP; `None` if there is no answer within 2 seconds.
    pub(super) fn http(&self, request: &str, body: &str) -> Option<String> {
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
