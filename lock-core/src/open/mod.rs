//! From a URL or a configuration to locks.

pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod registry;
pub(crate) mod tls;
pub(crate) mod url;

pub use self::config::{Config, KeyValue, Profile, Purpose, Require, StoreParts};
pub use self::connect::Connect;
pub use self::registry::{Driver, MissingDriver, Registry, StoreKind};
pub use self::tls::{PemFile, Tls, TlsFiles};
pub use self::url::StoreUrl;
