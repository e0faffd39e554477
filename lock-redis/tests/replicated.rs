//! The suite on a master whose replica must acknowledge every grant and renewal.

mod conformance_on;

use std::process::ExitCode;

use lock_testkit::RedisServer;

fn main() -> ExitCode {
    let master = RedisServer::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    let replica = RedisServer::replica_of(&master, &[]);
    let url = master.url();
    conformance_on::run((master, replica), &url, "wait=1&wait_timeout=30s&")
}
