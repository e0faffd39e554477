//! Opening a store.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use lock_core::runtime::PerRuntime;
use lock_core::{Error, Guarantees, Result};

use crate::config::RedisConfig;
use crate::connections::Connections;
use crate::connector::Connector;
use crate::guarantees::guarantees;
use crate::keys::Keys;
use crate::server_info::ServerInfo;
use crate::store::RedisStore;
use crate::tokens::Tokens;
use crate::topology::Topology;
use crate::value::InfoSuffixCache;

impl RedisStore {
    /// Connects, reads the server's state, its settings and the realm of its data, and warns of
    /// everything that endangers locks.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](lock_core::ErrorKind::InvalidConfig) for settings that cannot be used, a
    /// server that is too old, or one that is a replica; [`Denied`](lock_core::ErrorKind::Denied)
    /// for a wrong login or one that lacks a right;
    /// [`Unavailable`](lock_core::ErrorKind::Unavailable) or
    /// [`TimedOut`](lock_core::ErrorKind::TimedOut) within the connect time-out.
    ///
    /// # Cancel safety
    ///
    /// At most an identity of the data was written, which is used again.
    pub async fn connect(config: RedisConfig) -> Result<RedisStore> {
        config.check()?;
        let keys = Keys::new(&config.prefix, matches!(config.topology, Topology::Cluster(_)))?;
        let (connector, tokens) = (Connector::new(&config)?, Arc::new(Tokens::default()));
        let connections = {
            let (config, keys, tokens) = (config.clone(), keys.clone(), tokens.clone());
            Arc::new(PerRuntime::new(move || Connections::new(&config, &connector, &keys, &tokens)))
        };
        let mut store = RedisStore {
            config,
            keys,
            tokens,
            connections,
            guarantees: Guarantees::NONE,
            info_suffixes: InfoSuffixCache::default(),
            has_warned_of_token: AtomicBool::new(false),
            is_background_warm: AtomicBool::new(false),
        };
        let servers = store.query_servers().await?;
        if let Some(replica) = servers.iter().find(|server| server.is_replica) {
            let text = format!("{} is a replica, and may not write: give the address of its master", replica.name);
            return Err(Error::invalid_config(text));
        }
        store.guarantees = guarantees(&servers, store.config.topology.may_fail_over());
        for finding in servers.iter().flat_map(|server| server.warnings(store.config.wait)) {
            tracing::warn!(target: "leasehold", store = "redis", "{finding}");
        }
        let id = store.read_realm(false).await?;
        store.tokens.adopt(&id);
        Ok(store)
    }

    async fn query_servers(&self) -> Result<Vec<ServerInfo>> {
        let mut servers = Vec::new();
        for node in self.connections()?.router.all().await? {
            node.connection().await?;
            // A query without an answer promises nothing.
            let unknown = || ServerInfo::parse(node.name(), Vec::new());
            servers.push(node.server_info().await.unwrap_or_else(|_| unknown()));
        }
        Ok(servers)
    }
}
