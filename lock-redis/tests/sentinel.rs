//! The suite on the master that three sentinels name.

mod conformance_on;

use std::process::ExitCode;

use lock_testkit::RedisSentinels;

fn main() -> ExitCode {
    let servers = RedisSentinels::start(&[]);
    let url = servers.url();
    conformance_on::run(servers, &url, "")
}
