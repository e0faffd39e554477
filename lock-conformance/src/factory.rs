//! [`Factory`] and [`Deployment`]: the store under test.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{Fault, Faults, LockStore};

/// The reason why a case failed, or why a deployment could not be made.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Makes deployments of the store under test.
#[async_trait]
pub trait Factory: Send + Sync + 'static {
    /// Makes a deployment with its own data: a directory, a database, or a key prefix that no other
    /// case uses. Cases run at the same time, use the same names, and begin new realms.
    ///
    /// # Errors
    ///
    /// Any; the case then fails with it.
    async fn deploy(&self) -> Result<Arc<dyn Deployment>, Failure>;

    /// Makes a deployment on which `fault` will be [inflicted](Deployment::inflict). It must share
    /// nothing with other deployments that the fault would disturb.
    ///
    /// # Errors
    ///
    /// Any; the case then fails with it.
    async fn deploy_for(&self, _fault: Fault) -> Result<Arc<dyn Deployment>, Failure> {
        self.deploy().await
    }

    /// The shortest TTL that makes sense for this store: long compared to one call to it, and short
    /// enough to wait for. All times of the suite are multiples of it.
    fn ttl(&self) -> Duration;

    /// The codes of the findings that the store documents; empty if they are not to be compared.
    /// The answer of a healthy store has each of them, and no other.
    fn finding_codes(&self) -> &'static [&'static str] {
        &[]
    }

    /// The faults that its deployments can [inflict](Deployment::inflict). Cases for other faults
    /// are shown as ignored.
    fn faults(&self) -> Faults {
        Faults::NONE
    }

    /// Whether its deployments can [end sessions](Deployment::end_sessions).
    fn ends_sessions(&self) -> bool {
        false
    }
}

/// One deployment of the store under test. Dropping it removes its temporary resources.
#[async_trait]
pub trait Deployment: Send + Sync + 'static {
    /// Opens a handle on the data of this deployment, as another process would. Handles may be
    /// dropped and opened again while the deployment lives.
    ///
    /// # Errors
    ///
    /// Any; the case then fails with it.
    async fn open(&self) -> Result<Arc<dyn LockStore>, Failure>;

    /// Inflicts `fault` and waits until the store can be used again. Handles that were opened
    /// before may be broken.
    ///
    /// # Errors
    ///
    /// Any; the case then fails with it.
    async fn inflict(&self, fault: Fault) -> Result<(), Failure> {
        Err(format!("this deployment cannot make the fault: {fault}").into())
    }

    /// Ends every session at the server, as if it had lost their heartbeats. Their handles learn it
    /// before their deadlines.
    ///
    /// # Errors
    ///
    /// Any; the case then fails with it.
    async fn end_sessions(&self) -> Result<(), Failure> {
        Err("this deployment cannot end sessions".into())
    }
}
