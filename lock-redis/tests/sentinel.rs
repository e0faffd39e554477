//! The suite on the master that three sentinels name.

mod prefixed;

use std::process::ExitCode;

use lock_testkit::RedisSentinels;

fn main() -> ExitCode {
    let servers = RedisSentinels::start(&[]);
    let url = servers.url();
    prefixed::run(servers, &url, "")
}
