//! The conformance suite of leasehold: what every store must do, as named cases that one short test
//! file runs.
//!
//! A store that passes keeps the promises that users of a lock rely on: exclusion, true validity,
//! rising fencing tokens, single steps on the server, cancel safety, honest guarantees. The suite
//! uses only the public interface of `lock-core`, so that a store outside this workspace runs the
//! same cases as those inside.
//!
//! A store's whole test file, with `harness = false` in its manifest:
//!
//! ```no_run
//! use std::{process::ExitCode, sync::Arc, time::Duration};
//!
//! use lock_conformance::{Deployment, Factory, Failure, async_trait};
//! use lock_core::{LockStore, MemoryStore};
//!
//! struct Memory;
//! struct Data(MemoryStore);
//!
//! #[async_trait]
//! impl Factory for Memory {
//!     async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure> {
//!         Ok(Arc::new(Data(MemoryStore::new())))
//!     }
//!
//!     fn ttl(&self) -> Duration {
//!         Duration::from_millis(300)
//!     }
//! }
//!
//! #[async_trait]
//! impl Deployment for Data {
//!     async fn open(&self) -> Result<Arc<dyn LockStore>, Failure> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     lock_conformance::run(Memory)
//! }
//! ```
//!
//! A case that the store's [guarantees](lock_core::Guarantees) rule out is shown as *ignored*, with
//! the reason; it never counts as passed. [`Suite`] runs the same cases inside a program and gives
//! a [`Report`]. [`faults`] has the wrappers that delay, lose and repeat what a store does;
//! [`history`] decides whether a history of acquisitions was lawful.

mod case;
mod cases;
mod context;
mod ensure;
mod factory;
pub mod faults;
mod harness;
pub mod history;
mod random;
mod report;
mod requirement;
mod stall_monitor;
mod suite;

pub use lock_core::async_trait;

pub use self::factory::{Deployment, Factory, Failure};
pub use self::harness::{run, run_each};
pub use self::random::Random;
pub use self::report::{Outcome, Report, Verdict};
pub use self::suite::Suite;
