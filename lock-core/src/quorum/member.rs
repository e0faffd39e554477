//! [`Member`]: one store of a quorum, or how to open it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::contract::LockStore;
use crate::words::Result;

type Opened = Pin<Box<dyn Future<Output = Result<Arc<dyn LockStore>>> + Send>>;

/// One store of a [`Quorum`](crate::Quorum), or a way to open it: then it may be down when the
/// quorum is opened, and joins when it is up.
#[derive(Clone)]
pub struct Member {
    name: Option<Arc<str>>,
    source: Source,
}

#[derive(Clone)]
enum Source {
    Store(Arc<dyn LockStore>),
    Open(Arc<dyn Fn() -> Opened + Send + Sync>),
}

impl Member {
    /// A member that is opened by `open`, which is called until it succeeds. `name` is its name for
    /// people, such as its URL without passwords.
    pub fn opened_by<F>(name: impl AsRef<str>, open: impl Fn() -> F + Send + Sync + 'static) -> Member
    where
        F: Future<Output = Result<Arc<dyn LockStore>>> + Send + 'static,
    {
        let open = move || Box::pin(open()) as Opened;
        Member { name: Some(name.as_ref().into()), source: Source::Open(Arc::new(open)) }
    }

    pub(super) fn store(&self) -> Option<Arc<dyn LockStore>> {
        match &self.source {
            Source::Store(store) => Some(store.clone()),
            Source::Open(_) => None,
        }
    }

    pub(super) async fn open(&self) -> Result<Arc<dyn LockStore>> {
        match &self.source {
            Source::Store(store) => Ok(store.clone()),
            Source::Open(open) => open().await,
        }
    }

    /// Name of the member with this index, for people.
    pub(super) fn called(&self, at: usize) -> String {
        match &self.name {
            Some(name) => format!("member {} ({name})", at + 1),
            None => format!("member {}", at + 1),
        }
    }
}

impl From<Arc<dyn LockStore>> for Member {
    fn from(store: Arc<dyn LockStore>) -> Member {
        Member { name: None, source: Source::Store(store) }
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.name) {
            (Source::Store(store), _) => store.fmt(f),
            (Source::Open(_), name) => f.debug_tuple("Member").field(name).finish(),
        }
    }
}
