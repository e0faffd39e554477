//! [`SlotMigration`]: a slot on its way to another master.

use super::masters::masters;
use super::server::cli;
use crate::until;

/// The migration of a slot from one master of a cluster to another.
#[derive(Debug)]
pub struct SlotMigration {
    slot: u16,
    members: Vec<u16>,
    /// The port of the source.
    pub from: u16,
    /// The port of the destination.
    pub to: u16,
}

impl SlotMigration {
    #[track_caller]
    pub(super) fn start(slot: u16, from: u16, to: u16, members: Vec<u16>) -> SlotMigration {
        let migration = SlotMigration { slot, members, from, to };
        migration.set(to, "IMPORTING", from);
        migration.set(from, "MIGRATING", to);
        migration
    }

    #[track_caller]
    fn set(&self, at: u16, state: &str, other: u16) {
        until("a slot that is set", || {
            let id = cli(other, &["CLUSTER", "MYID"]);
            (cli(at, &["CLUSTER", "SETSLOT", &self.slot.to_string(), state, &id]) == "OK").then_some(())
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

    /// Moves the remaining keys, makes the destination the owner, and waits until all members know
    /// it: a replica that does not could not take over the slot.
    #[track_caller]
    pub fn finish(&self) {
        let remaining = || cli(self.from, &["CLUSTER", "GETKEYSINSLOT", &self.slot.to_string(), "1000"]);
        until("a slot without keys", || {
            let remaining = remaining();
            remaining.lines().for_each(|key| self.move_key(key));
            remaining.is_empty().then_some(())
        });
        self.set(self.to, "NODE", self.to);
        self.set(self.from, "NODE", self.to);
        for port in &self.members {
            until("a slot whose owner is known", || {
                masters(*port).iter().any(|master| master.port == self.to && master.owns(self.slot)).then_some(())
            });
        }
    }
}
