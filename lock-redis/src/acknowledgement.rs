//! [`Acknowledgement`]: that replicas have what was written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lock_core::Result;
use redis::{Pipeline, Value};

use crate::RedisConfig;
use crate::dial::{Dial, To};
use crate::error;
use crate::gathered::Gathered;
use crate::link::{Connection, Link};

/// That replicas have what was written. It is asked for on connections of its own: the server answers nothing else on a
/// connection that waits for its replicas.
///
/// A server has the acknowledgement of all that was written before it was asked for. So whoever comes while it is waited
/// for shares the next one, and waits for two of them at most, however many there are.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    wanted: u32,
    limit: Duration,
    response_timeout: Duration,
    dial: Dial,
    /// By address.
    servers: Mutex<HashMap<String, Arc<Asked>>>,
}

/// One server that is asked.
#[derive(Debug)]
struct Asked {
    link: Arc<Link>,
    /// By the key of the mark that is written.
    questions: Arc<Gathered<String, u32>>,
    wanted: u32,
    limit: Duration,
}

/// Writes the mark. A connection waits for its own last write, which must be one that goes to replicas; and a server
/// without memory refuses what could take more of it, but not after a write that cannot.
const MARK: &str = "redis.call('DEL', KEYS[1]) return redis.call('SET', KEYS[1], '', 'PX', 1000)";

impl Acknowledgement {
    /// `None` if none is wanted.
    pub(crate) fn new(config: &RedisConfig, dial: &Dial) -> Option<Acknowledgement> {
        (config.wait > 0).then(|| Acknowledgement {
            wanted: config.wait,
            limit: config.wait_timeout,
            response_timeout: config.response_timeout,
            dial: dial.clone(),
            servers: Mutex::default(),
        })
    }

    pub(crate) fn wanted(&self) -> u32 {
        self.wanted
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    fn server(&self, to: &To) -> Arc<Asked> {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let link = Link::for_commands(self.dial.with(to.clone()), self.response_timeout + self.limit);
            // However many there are, it is the same.
            let (link, questions) = (Arc::new(link), Gathered::at_most(usize::MAX));
            Arc::new(Asked { link, questions, wanted: self.wanted, limit: self.limit })
        };
        servers.entry(to.to_string()).or_insert_with(new).clone()
    }

    /// Connects to the server of this connection.
    ///
    /// # Errors
    ///
    /// As for connecting.
    pub(crate) async fn connect(&self, granted_on: &Connection) -> Result<()> {
        self.server(&granted_on.to).link.connection().await.map(drop)
    }

    /// How many replicas have what the server of this connection had written when it was asked; never more than are
    /// wanted matter.
    ///
    /// # Errors
    ///
    /// As for a step.
    pub(crate) async fn ask(&self, granted_on: &Connection, key: String) -> Result<u32> {
        let server = self.server(&granted_on.to);
        let asked = server.clone();
        let call = move |keys| {
            let server = server.clone();
            async move { server.ask(keys).await }
        };
        asked.questions.ask(key, call).await
    }
}

impl Asked {
    /// One acknowledgement for all of these. The mark has the key of the first whose slot is still here.
    async fn ask(&self, keys: Vec<String>) -> Vec<Result<u32>> {
        let mut answers = Vec::with_capacity(keys.len());
        for key in &keys {
            let answer = self.ask_by(key).await;
            let has_moved = matches!(&answer, Err((_, true)));
            let answer = answer.map_err(|(error, _)| error);
            if has_moved {
                answers.push(answer);
                continue;
            }
            answers.resize(keys.len(), answer);
            break;
        }
        answers
    }

    /// One acknowledgement. A failure says whether it is that the key's slot is no more here.
    async fn ask_by(&self, key: &str) -> Result<u32, (lock_core::Error, bool)> {
        const DOING: &str = "waiting for replicas";
        let answers = self.link.all_of(DOING, &self.questions(key)).await.map_err(|failed| {
            let has_moved = failed.redirection().is_some();
            (self.link.error(DOING, failed), has_moved)
        })?;
        match answers.last() {
            Some(Value::Int(replicas)) => Ok(u32::try_from(*replicas).unwrap_or(0)),
            _ => Err((error::odd(self.link.name(), DOING), false)),
        }
    }

    fn questions(&self, key: &str) -> Pipeline {
        let mut both = redis::pipe();
        both.cmd("EVAL").arg(MARK).arg(1).arg(key);
        both.cmd("WAIT").arg(self.wanted).arg(self.limit.as_millis().max(1) as u64);
        both
    }
}
