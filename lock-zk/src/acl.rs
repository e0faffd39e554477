//! Access control: the list that every node of this store gets.

use lock_core::{Error, ErrorKind, Result};
use zookeeper_client::{Acl, Acls, Client, Error as ZkError, Permission};

use crate::error::classify;
use crate::layout::Layout;

/// The access control list for the nodes of this store: the connection's own user, if the servers
/// authenticated one; else everybody.
pub(crate) async fn node_acls(client: &Client, has_login: bool, layout: &Layout) -> Result<Acls<'static>> {
    let is_authenticated = match client.list_auth_users().await {
        Ok(users) => users.iter().any(|user| !["ip", "world"].contains(&user.scheme())),
        // Servers before 3.7 have no such request.
        Err(ZkError::Unimplemented) => has_login,
        Err(failure) => return Err(classify("connecting", failure, false).into()),
    };
    if has_login && !is_authenticated {
        return Err(Error::refused(ErrorKind::Denied, "ZooKeeper does not know this user"));
    }
    let path = layout.base();
    if !is_authenticated {
        tracing::warn!(path, "nobody has logged in to ZooKeeper: whoever reaches it may delete these locks");
        return Ok(Acls::anyone_all());
    }
    match client.get_acl(path).await {
        Ok((acl, _)) if acl.iter().any(is_open) => {
            tracing::warn!(path, "anybody may delete nodes below this path of ZooKeeper, whatever is made below it");
        }
        Ok(_) | Err(ZkError::NoNode | ZkError::NoAuth) => {}
        Err(failure) => return Err(classify("connecting", failure, false).into()),
    }
    Ok(Acls::creator_all())
}

/// Returns `true` if this entry of a node's list lets everybody delete what is below the node.
pub(crate) fn is_open(acl: &Acl) -> bool {
    acl.scheme() == "world" && acl.permission().has(Permission::DELETE)
}
