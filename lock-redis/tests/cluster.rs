//! The suite on a cluster of three masters with a replica each.

mod prefixed;

use std::process::ExitCode;

use lock_testkit::RedisCluster;

fn main() -> ExitCode {
    let servers = RedisCluster::start(&[]);
    let url = servers.url();
    prefixed::run(servers, &url, "")
}
