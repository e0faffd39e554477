//! Advisory locks: the second mode, for programs that must exclude existing code that uses these.
//!
//! | file | contents |
//! |---|---|
//! | `store` | [`AdvisoryStore`], the contract |
//! | `connect` | opening it |
//! | `request` | requesting and renewing locks |
//! | `operator` | reading and breaking locks |
//! | `claim_state` | the state kept with a claim |
//! | `connections` | the connections that have locks, by TTL |
//! | `connection`, `command`, `task` | one such connection: its handle, its messages, its task |
//! | `statements` | the SQL |

mod claim_state;
mod command;
mod connect;
mod connection;
mod connections;
mod operator;
mod request;
mod statements;
mod store;
mod task;

pub use self::store::AdvisoryStore;
