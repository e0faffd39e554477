//! The suite on a cluster of three masters with a replica each.

mod conformance_on;

use std::process::ExitCode;

use lock_testkit::RedisCluster;

fn main() -> ExitCode {
    let servers = RedisCluster::start(&[]);
    let url = servers.url();
    conformance_on::run(servers, &url, "")
}
