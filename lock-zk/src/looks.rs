//! [`Looks`]: looks at lines that many share.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};

use crate::error::CallError;
use crate::gate::Gate;
use crate::line::Line;
use crate::session::locked;
use crate::store::line;
use crate::wire::Wire;

/// The looks of one session at lines. Who wants to look at a line shares the look of all who want the same and whose
/// question has not been sent yet: a thousand waiters for one name, whose line is a thousand nodes long, cost a few
/// answers and not a thousand.
#[derive(Clone, Default)]
pub(crate) struct Looks(Arc<Mutex<HashMap<Aim, Looking>>>);

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Aim {
    /// The node of a lock.
    folder: String,
    /// Whether the server is to be brought up to the others before.
    sync: bool,
}

/// Who looks at one line.
struct Looking {
    gate: Gate,
    /// The look that was not sent yet.
    next: Option<Look>,
    users: usize,
}

type Look = Shared<BoxFuture<'static, Result<Arc<Line>, CallError>>>;

/// Somebody who looks at a line, or comes into it.
pub(crate) struct User {
    looks: Looks,
    aim: Aim,
}

/// How many looks at one line are under way at once.
const AT_ONCE: usize = 2;

impl Looks {
    /// Looks at a line, as it is after this call.
    pub(crate) async fn look(&self, wire: &Wire, folder: &str, sync: bool) -> Result<Arc<Line>, CallError> {
        let (user, _) = self.user(folder, sync);
        let look = {
            let mut all = locked(&self.0);
            let looking = all.get_mut(&user.aim).expect("BUG: a user keeps its entry");
            match looking.next.as_ref().filter(|next| next.peek().is_none()) {
                Some(next) => next.clone(),
                None => {
                    let look = self.next(wire.clone(), looking.gate.clone(), user.aim.clone());
                    looking.next.insert(look).clone()
                }
            }
        };
        look.await
    }

    fn next(&self, wire: Wire, gate: Gate, aim: Aim) -> Look {
        let looks = self.clone();
        let asked = async move {
            // Who comes from now on needs another one.
            let step = move |client| {
                if let Some(looking) = locked(&looks.0).get_mut(&aim) {
                    looking.next = None;
                }
                async move { line(&client, &aim.folder, aim.sync).await.map(Arc::new) }
            };
            wire.ask(step).await
        };
        async move { gate.pass(asked).await }.boxed().shared()
    }

    /// Somebody who comes into a line, and how many others do so or look at it just now.
    pub(crate) fn comes(&self, folder: &str) -> (User, usize) {
        self.user(folder, false)
    }

    fn user(&self, folder: &str, sync: bool) -> (User, usize) {
        let aim = Aim { folder: folder.to_owned(), sync };
        let mut all = locked(&self.0);
        let looking = all.entry(aim.clone()).or_insert_with(Looking::new);
        looking.users += 1;
        let others = looking.users - 1;
        (User { looks: self.clone(), aim }, others)
    }
}

impl Looking {
    fn new() -> Looking {
        Looking { gate: Gate::of(AT_ONCE), next: None, users: 0 }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let mut all = locked(&self.looks.0);
        let Some(looking) = all.get_mut(&self.aim) else { return };
        looking.users -= 1;
        if looking.users == 0 {
            all.remove(&self.aim);
        }
    }
}

impl fmt::Debug for Looks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Looks").field("lines", &locked(&self.0).len()).finish()
    }
}
