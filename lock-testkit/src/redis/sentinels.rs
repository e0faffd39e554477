//! [`RedisSentinels`]: a master, a replica and sentinels.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::server::{RedisServer, cli};
use crate::{Process, free_port, until};

/// A master, a replica and three sentinels.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: Vec<RedisServer>,
    sentinels: Vec<(u16, TempDir, Process)>,
}

impl RedisSentinels {
    /// The service name of the master.
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
        let mut group = RedisSentinels { servers: vec![master, replica], sentinels: Vec::new() };
        for _ in 0..3 {
            group.sentinels.push(spawn_sentinel(group.servers[0].port()));
        }
        for (port, ..) in &group.sentinels {
            until("sentinels that know each other and the replica", || {
                let reply = cli(*port, &["SENTINEL", "MASTER", Self::SERVICE]);
                let field = |name: &str| reply.lines().skip_while(|line| *line != name).nth(1).map(str::to_owned);
                let is_complete = field("num-other-sentinels").as_deref() == Some("2")
                    && field("num-slaves").as_deref() == Some("1")
                    && field("flags").as_deref() == Some("master");
                is_complete.then_some(())
            });
        }
        group
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(port, ..)| format!("127.0.0.1:{port}")).collect();
        format!("redis-sentinel://{}/{}", hosts.join(","), Self::SERVICE)
    }

    /// The port of the master, if all sentinels agree.
    pub fn master_port(&self) -> Option<u16> {
        let master_of = |port| cli(port, &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Self::SERVICE]);
        let ports: Vec<_> = self.sentinels.iter().map(|(port, ..)| master_of(*port)).collect();
        ports.iter().all(|port| *port == ports[0]).then(|| ports[0].lines().nth(1)?.parse().ok())?
    }

    /// The master and the replica, in the order in which they were started.
    pub fn servers(&mut self) -> &mut [RedisServer] {
        &mut self.servers
    }

    /// The server at this port.
    pub fn server(&mut self, port: u16) -> &mut RedisServer {
        self.servers.iter_mut().find(|server| server.port() == port).expect("a port of one of the servers")
    }

    /// Kills the master and waits until all sentinels report the promoted replica.
    #[track_caller]
    pub fn fail_over(&mut self) {
        let before = until("a master", || self.master_port());
        self.server(before).kill();
        let after = until("another master", || self.master_port().filter(|port| *port != before));
        until("the new master's role", || cli(after, &["ROLE"]).starts_with("master").then_some(()));
    }
}

#[track_caller]
fn spawn_sentinel(master: u16) -> (u16, TempDir, Process) {
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
