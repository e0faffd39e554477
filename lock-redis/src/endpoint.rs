//! [`Endpoint`]: the address of one server.

use std::fmt;
use std::path::PathBuf;

use lock_core::kit::host_and_port;

/// The address of one server.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    /// Host and port.
    Address(String, u16),
    /// A unix socket of this machine.
    Socket(PathBuf),
    /// The master that the sentinels name for this service.
    Master { sentinels: Vec<(String, u16)>, service: String },
}

impl Endpoint {
    /// The text for a server that belongs to a cluster but was given as a single one.
    pub(crate) fn cluster_hint(&self, name: &str) -> String {
        let host = match self {
            Endpoint::Address(host, port) => host_and_port(host, *port),
            _ => "HOST:PORT".to_owned(),
        };
        format!("{name} is a member of a cluster: give it as redis-cluster://{host}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Address(host, port) => write!(f, "redis at {}", host_and_port(host, *port)),
            Endpoint::Socket(path) => write!(f, "redis at {}", path.display()),
            Endpoint::Master { service, .. } => write!(f, "the redis master of {service}"),
        }
    }
}
