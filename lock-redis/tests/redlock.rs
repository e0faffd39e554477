//! The suite on a quorum of five servers that sync every write.

mod conformance_on;

use std::process::ExitCode;

use lock_testkit::{RedisServer, redlock_url};

fn main() -> ExitCode {
    let servers: Vec<_> =
        (0..5).map(|_| RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"])).collect();
    let url = redlock_url(&servers);
    conformance_on::run(servers, &url, "member_timeout=30s&")
}
