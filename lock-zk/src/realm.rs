//! [`RealmNode`]: whose tokens a store gives, and that every session is of the data that they are of.

use std::sync::Mutex;

use lock_core::{Effect, Error, ErrorKind, Realm, Result};
use zookeeper_client::{Acls, Client, CreateMode, Error as ZkError};

use crate::error::{CallError, classify, unexpected_reply};
use crate::layout::Layout;
use crate::session::{locked, make_container};

/// Whose tokens a store gives: what a node beside the locks says.
///
/// It is read when the store is opened, and **again on every session that is opened later**, before anything is asked
/// by it: where the address leads to another ensemble by then, or to the same one with other data, nothing is granted
/// and nothing is shown by that session. One session never goes over to other data: an ensemble that does not know it
/// says that it has ended, and one that is behind what the session has seen, as a restored one is, does not take it.
#[derive(Debug)]
pub(crate) struct RealmNode {
    path: String,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// None until it was read for the first time.
    current: Option<Realm>,
    /// The one that this handle is beginning just now.
    pending: Option<Realm>,
}

/// How often the node is looked for that somebody else makes, or deletes, at the same time.
const MAX_CREATE_ATTEMPTS: usize = 3;

impl RealmNode {
    pub(crate) fn new(layout: &Layout) -> RealmNode {
        RealmNode { path: layout.realm_path(), known: Mutex::default() }
    }

    /// The realm of this handle.
    pub(crate) fn realm(&self) -> Realm {
        locked(&self.known).current.clone().expect("BUG: a store is not there before its realm was read")
    }

    /// Reads it, or makes it where there is none: for a handle that is being opened.
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

    /// None if another one makes it at the same time, or its folder was deleted, being empty.
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

    /// What the node says, as a quorum knows it by now; `None` if there is none.
    pub(crate) async fn read(&self, client: &Client) -> Result<Option<Realm>, CallError> {
        let to_call_error = |failure| classify("reading the realm", failure, false);
        // They leave in this order, before either is answered.
        let (synced, read) = (client.sync(&self.path), client.get_data(&self.path));
        synced.await.map_err(to_call_error)?;
        match read.await {
            Ok((text, _)) => {
                let text =
                    String::from_utf8(text).map_err(|_| unexpected_reply("the realm in ZooKeeper is no text"))?;
                Ok(Some(Realm::new(text)))
            }
            Err(ZkError::NoNode) => Ok(None),
            Err(failure) => Err(to_call_error(failure)),
        }
    }

    /// Refuses a session that was just opened if its data are not those of this handle.
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
                "this ZooKeeper is another one, or was emptied: it has no realm at {}, and these locks are of the realm \
                 {ours}; open them anew",
                self.path
            ),
            Some(other) => format!(
                "this ZooKeeper is another one, or an operator has begun a new realm: its realm is {other}, and these \
                 locks are of the realm {ours}; open them anew"
            ),
        };
        Err(Error::refused(ErrorKind::InvalidConfig, text).into())
    }

    /// Begins a new realm.
    pub(crate) async fn replace(&self, client: &Client) -> Result<Realm> {
        let fresh = Realm::fresh("zk");
        // A session that is opened meanwhile may find the one or the other.
        locked(&self.known).pending = Some(fresh.clone());
        let written = client.set_data(&self.path, fresh.as_str().as_bytes(), None).await;
        let mut known = locked(&self.known);
        known.pending = None;
        written.map_err(|failure| classify("beginning a realm", failure, true))?;
        known.current = Some(fresh.clone());
        Ok(fresh)
    }
}

/// What is said where data have gone back.
pub(crate) fn stale_data() -> Error {
    let text = "the data of this ZooKeeper are older than what these locks have seen there, as after a restore from a \
                backup: begin a new realm (`leasehold realm --new`), and open the locks anew";
    Error::new(ErrorKind::InvalidConfig, Effect::None, text)
}
