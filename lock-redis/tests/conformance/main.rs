//! The conformance suite on Redis, in every topology.

mod shared;
mod single;

use std::process::ExitCode;
use std::sync::Arc;

use lock_testkit::{RedisCluster, RedisSentinels, RedisServer, redlock_url};

use self::shared::Shared;
use self::single::Single;

/// The settings of a server that syncs every write.
const SYNCED: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

fn main() -> ExitCode {
    let master = RedisServer::start(SYNCED);
    let replica = RedisServer::replica_of(&master, &[]);
    let sentinels = RedisSentinels::start(&[]);
    let cluster = RedisCluster::start(&[]);
    let members: Vec<_> = (0..5).map(|_| RedisServer::start(SYNCED)).collect();
    let code = lock_conformance::run_each([
        ("single", Arc::new(Single) as _),
        // The replica must acknowledge every grant and renewal.
        ("replicated", Shared::at(&master.url(), "wait=1&wait_timeout=30s&")),
        ("sentinel", Shared::at(&sentinels.url(), "")),
        ("cluster", Shared::at(&cluster.url(), "")),
        ("redlock", Shared::at(&redlock_url(&members), "member_timeout=30s&")),
    ]);
    drop((master, replica, sentinels, cluster, members));
    code
}
