//! [`host_and_port`]: the text of an address.

/// The address as `host:port`, with brackets around an IPv6 address.
pub fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_address_has_brackets_and_a_name_has_none() {
        assert_eq!(host_and_port("::1", 2379), "[::1]:2379");
        assert_eq!(host_and_port("etcd-1.local", 2379), "etcd-1.local:2379");
    }
}
