//! [`Head`]: the first entry of a queue, with the content of its node.

use lock_core::{Error, ErrorKind, Holder, HolderInfo};
use zookeeper_client::{Client, Error as ZkError, Stat};

use crate::entry_name::EntryName;
use crate::error::{CallError, classify};
use crate::queue::read_queue;
use crate::record::{HolderRecord, is_revocation_request};

/// The first entry of a queue, with the content of its node.
pub(crate) struct Head {
    pub(crate) path: String,
    pub(crate) entry_name: EntryName,
    pub(crate) data: Vec<u8>,
    pub(crate) stat: Stat,
}

/// The attempts to read the head of a queue whose node goes before it is read.
const MAX_HEAD_READS: usize = 5;

impl Head {
    /// The holder, if it is one of this store's; also if another program has overwritten its
    /// record.
    pub(crate) fn holder(&self) -> Option<Holder> {
        match HolderRecord::decode(&self.data) {
            Some(record) => Some(record.holder),
            None if is_revocation_request(&self.data) => self.entry_name.holder(),
            None => None,
        }
    }

    /// A description of a holder that is another program.
    pub(crate) fn foreign_info(&self) -> HolderInfo {
        let node = &self.entry_name.node;
        let text = match is_revocation_request(&self.data) {
            true => format!("asked to give it back (__REVOKE__), node {node}"),
            false => format!("another program, node {node}"),
        };
        HolderInfo::new("", 0, &text)
    }
}

/// Reads the head of the queue of the lock with this node; `None` if the queue is empty.
pub(crate) async fn find_head(client: &Client, lock_path: &str) -> Result<Option<Head>, CallError> {
    for _ in 0..MAX_HEAD_READS {
        let queue = read_queue(client, lock_path, true).await?;
        let Some(first) = queue.first() else { return Ok(None) };
        if let Some(head) = read_head(client, &format!("{lock_path}/{}", first.node)).await? {
            return Ok(Some(head));
        }
    }
    let text = "who holds the lock changes faster than it can be read";
    Err(Error::refused(ErrorKind::Unavailable, text).into())
}

/// Reads the node with this path; `None` if it has just gone.
pub(crate) async fn read_head(client: &Client, path: &str) -> Result<Option<Head>, CallError> {
    let (data, stat) = match client.get_data(path).await {
        Ok(read) => read,
        Err(ZkError::NoNode) => return Ok(None),
        Err(failure) => return Err(classify("inspecting", failure, false)),
    };
    let entry_name = path.rsplit_once('/').and_then(|(_, node)| EntryName::parse(node.to_owned()));
    Ok(entry_name.map(|entry_name| Head { path: path.to_owned(), entry_name, data, stat }))
}
