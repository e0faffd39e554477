//! [`RealmNode`]: the realm of the tokens, and the check that every session is of the same data.

use std::sync::Mutex;

use lock_core::kit::locked;
use lock_core::{Error, ErrorKind, Realm, Result};
use zookeeper_client::{Acls, Client, CreateMode, Error as ZkError};

use crate::error::{CallError, classify};
use crate::layout::Layout;
use crate::nodes::make_container;

/// The node beside the locks that holds the realm of the tokens.
///
/// It is read when the store is opened, and **again on every session that is opened later**, before
/// anything else is asked on it: if the address then leads to another ensemble, or to the same one
/// with other data, nothing is granted and nothing is shown on that session. A session never moves
/// to other data: an ensemble that does not know it says that it has ended, and one that is behind
/// what the session has seen, as a restored one is, does not accept it.
#[derive(Debug)]
pub(crate) struct RealmNode {
    path: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// `None` until it was read for the first time.
    current: Option<Realm>,
    /// The new realm that this handle is writing now.
    pending: Option<Realm>,
}

/// The attempts to read or make the node while others make it, or delete it, at the same time.
const MAX_CREATE_ATTEMPTS: usize = 3;

impl RealmNode {
    pub(crate) fn new(layout: &Layout) -> RealmNode {
        RealmNode { path: layout.realm_path(), known: Mutex::default() }
    }

    /// The realm of this handle.
    pub(crate) fn realm(&self) -> Realm {
        locked(&self.known).current.clone().expect("BUG: a store is not there before its realm was read")
    }

    /// Reads the realm, or makes one if there is none: for a store that is being opened.
    pub(crate) async fn load_or_create(&self, client: &Client, base: &str, acls: Acls<'static>) -> Result<()> {
        for _ in 0..MAX_CREATE_ATTEMPTS {
            let found = match self.read(client).await? {
                Some(found) => Some(found),
                None => self.create(client, base, acls).await?,
            };
            if let Some(found) = found {
                locked(&self.known).current = Some(found);
                return Ok(());
            }
        }
        Err(Error::refused(ErrorKind::Unavailable, "the realm in ZooKeeper was deleted again and again"))
    }

    /// Makes the node; `None` if somebody else makes it at the same time, or its empty parent was
    /// deleted.
    async fn create(&self, client: &Client, base: &str, acls: Acls<'static>) -> Result<Option<Realm>, CallError> {
        if base != "/" {
            make_container(client, base, acls).await?;
        }
        let fresh = Realm::fresh("zk");
        match client.create(&self.path, fresh.as_str().as_bytes(), &CreateMode::Persistent.with_acls(acls)).await {
            Ok(_) => Ok(Some(fresh)),
            Err(ZkError::NodeExists | ZkError::NoNode) => Ok(None),
            Err(failure) => Err(classify("reading the realm", failure, false)),
        }
    }

    /// Reads the realm as a quorum knows it; `None` if there is no node.
    pub(crate) async fn read(&self, client: &Client) -> Result<Option<Realm>, CallError> {
        let to_call_error = |failure| classify("reading the realm", failure, false);
        // Both requests are sent in this order before either is answered.
        let (synced, read) = (client.sync(&self.path), client.get_data(&self.path));
        synced.await.map_err(to_call_error)?;
        match read.await {
            Ok((text, _)) => {
                let text = String::from_utf8(text)
                    .map_err(|_| Error::unexpected_reply("the realm in ZooKeeper is no text"))?;
                Ok(Some(Realm::new(text)))
            }
            Err(ZkError::NoNode) => Ok(None),
            Err(failure) => Err(to_call_error(failure)),
        }
    }

    /// Refuses a session that was just opened if its data are not those of this handle.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for another realm, or none; else those of the
    /// read.
    pub(crate) async fn check(&self, client: &Client) -> Result<(), CallError> {
        if locked(&self.known).current.is_none() {
            return Ok(());
        }
        let found = self.read(client).await?;
        let known = locked(&self.known);
        if found.is_some() && (found == known.current || found == known.pending) {
            return Ok(());
        }
        let ours = known.current.as_ref().map(Realm::as_str).unwrap_or_default();
        let text = match found {
            None => format!(
                "this ZooKeeper is another one, or was emptied: it has no realm at {}, and these locks are of \
                 the realm {ours}; open them anew",
                self.path
            ),
            Some(other) => format!(
                "this ZooKeeper is another one, or an operator has begun a new realm: its realm is {other}, and \
                 these locks are of the realm {ours}; open them anew"
            ),
        };
        Err(Error::invalid_config(text).into())
    }

    /// Begins a new realm: writes it, and gives its tokens from now on.
    pub(crate) async fn replace(&self, client: &Client) -> Result<Realm> {
        let fresh = Realm::fresh("zk");
        // A session that is opened meanwhile may find either realm.
        locked(&self.known).pending = Some(fresh.clone());
        let written = client.set_data(&self.path, fresh.as_str().as_bytes(), None).await;
        let mut known = locked(&self.known);
        known.pending = None;
        written.map_err(|failure| classify("beginning a realm", failure, true))?;
        known.current = Some(fresh.clone());
        Ok(fresh)
    }
}

/// The error for an ensemble whose data are older than those that this process has seen.
pub(crate) fn stale_data() -> Error {
    let text = "the data of this ZooKeeper are older than what these locks have seen there, as after a restore from a \
                backup: begin a new realm (`leasehold realm --new`), and open the locks anew";
    Error::invalid_config(text)
}
