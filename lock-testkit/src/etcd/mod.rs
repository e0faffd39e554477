//! etcd on private ports.

mod cluster;
mod member;

pub use self::cluster::Etcd;
pub use self::member::EtcdMember;
