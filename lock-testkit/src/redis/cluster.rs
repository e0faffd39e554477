//! [`RedisCluster`]: three masters, with replicas or without.

use std::process::{Command, Stdio};

use super::masters::masters;
use super::server::RedisServer;
use super::slot_migration::SlotMigration;
use crate::{free_port, until};

/// A cluster of three masters, each with one replica or none.
#[derive(Debug)]
pub struct RedisCluster {
    servers: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts three masters and three replicas with these settings.
    ///
    /// # Panics
    ///
    /// If they do not form a cluster.
    #[track_caller]
    pub fn start(settings: &[&str]) -> RedisCluster {
        RedisCluster::start_with(6, settings)
    }

    /// Starts three masters with these settings and no replicas.
    ///
    /// # Panics
    ///
    /// If they do not form a cluster.
    #[track_caller]
    pub fn start_without_replicas(settings: &[&str]) -> RedisCluster {
        RedisCluster::start_with(3, settings)
    }

    #[track_caller]
    fn start_with(count: usize, settings: &[&str]) -> RedisCluster {
        let start = || {
            let bus = free_port().to_string();
            // A busy machine may stall for seconds, which must not promote a replica.
            let mut arguments =
                vec!["--cluster-enabled", "yes", "--cluster-node-timeout", "5000", "--cluster-port", &bus];
            arguments.extend(settings);
            RedisServer::start(&arguments)
        };
        let cluster = RedisCluster { servers: (0..count).map(|_| start()).collect() };
        let addresses: Vec<_> = cluster.servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
        let mut command = Command::new("redis-cli");
        command.args(["--cluster", "create"]).args(&addresses).args([
            "--cluster-replicas",
            if count > 3 { "1" } else { "0" },
            "--cluster-yes",
        ]);
        let made = command.stdin(Stdio::null()).output().expect("redis-cli runs");
        assert!(made.status.success(), "no cluster: {}", String::from_utf8_lossy(&made.stdout));
        cluster.wait_until_complete();
        cluster
    }

    /// Waits until every member knows the three masters and every replica is synced.
    #[track_caller]
    fn wait_until_complete(&self) {
        for server in &self.servers {
            until("a cluster that is whole", || {
                let is_ok = server.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
                let masters = masters(server.port());
                let knows_all = masters.len() == 3 && masters.iter().all(|master| !master.slots.is_empty());
                let is_master = masters.iter().any(|master| master.port == server.port());
                let is_linked = is_master || server.cli(&["INFO", "replication"]).contains("link_status:up");
                (is_ok && knows_all && is_linked).then_some(())
            });
        }
    }

    /// Its URL, with three members.
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().take(3).map(|server| format!("127.0.0.1:{}", server.port())).collect();
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

    /// Moves a slot with its keys to another master; returns the port of the new owner.
    #[track_caller]
    pub fn move_slot(&self, slot: u16) -> u16 {
        let migration = self.start_slot_migration(slot);
        migration.finish();
        migration.to
    }

    /// Starts the migration of a slot to another master.
    #[track_caller]
    pub fn start_slot_migration(&self, slot: u16) -> SlotMigration {
        let (from, to) = self.owner_and_other(slot);
        let members = self.servers.iter().map(|server| server.port()).collect();
        SlotMigration::start(slot, from, to, members)
    }

    fn owner_and_other(&self, slot: u16) -> (u16, u16) {
        until("a slot that has an owner, and another master", || {
            let masters = masters(self.servers[0].port());
            let owner = masters.iter().find(|master| master.owns(slot))?.port;
            let other = masters.iter().find(|master| master.port != owner)?.port;
            Some((owner, other))
        })
    }
}
