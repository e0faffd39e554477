//! Operations on single nodes: containers are made, entries are deleted.

use zookeeper_client::{Acls, Client, CreateMode, Error as ZkError};

use crate::error::{CallError, classify};

/// Makes this node and its missing parents, as containers: the servers delete a container that has
/// been empty for a while.
pub(crate) async fn make_container(client: &Client, path: &str, acls: Acls<'static>) -> Result<(), CallError> {
    let made = client.mkdir(path, &CreateMode::Container.with_acls(acls)).await;
    made.map_err(|failure| classify("making a node of ZooKeeper", failure, false))
}

/// Deletes a node; `false` if there was none.
pub(crate) async fn delete_node(client: Client, path: String, doing: &'static str) -> Result<bool, CallError> {
    match client.delete(&path, None).await {
        Ok(()) => Ok(true),
        Err(ZkError::NoNode) => Ok(false),
        Err(failure) => Err(classify(doing, failure, true)),
    }
}
