//! [`Link`]: the connection to one server, made again when it is needed.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use lock_core::{Effect, Error, Remembers, Result};
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline, RedisError, Value};
use tokio::time::{error::Elapsed, timeout};

use crate::dial::{Dial, To};
use crate::error;
use crate::script::Script;
use crate::server::Server;
use crate::wakeups::{Channel, Wakeups};

/// The connection to one server, shared by everybody and made again when it is needed. Nothing is ever sent twice here.
#[derive(Debug)]
pub(crate) struct Link {
    dial: Dial,
    name: String,
    response_timeout: Duration,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by the one who connects; the last failure is that of all who waited for it.
    connecting: tokio::sync::Mutex<Option<(Instant, Error)>>,
}

/// One connection.
pub(crate) struct Connection {
    redis: MultiplexedConnection,
    /// To whom it leads, which sentinels may tell otherwise later.
    pub(crate) to: To,
    pub(crate) wakeups: Arc<Wakeups>,
    /// How far back the server remembered, and when that was known.
    remembered: OnceLock<(Remembers, Instant)>,
    /// Held while channels are added or left, so that a late unsubscribe cannot undo a new subscribe.
    subscribing: tokio::sync::Mutex<()>,
}

/// One step on the server: a script, its keys, and then its arguments.
pub(crate) struct Step {
    pub(crate) script: Script,
    pub(crate) keys: usize,
    command: Cmd,
}

/// Why a step brought no answer.
pub(crate) enum Failed {
    /// The server's, or the connection's, words.
    Redis(RedisError),
    /// It is an error of ours already.
    Ours(Error),
}

impl Link {
    pub(crate) fn new(dial: Dial, response_timeout: Duration) -> Link {
        Link {
            name: dial.to().to_string(),
            dial,
            response_timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }

    /// Who is at the other end, for error texts.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn dial(&self) -> &Dial {
        &self.dial
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn living(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| !connection.wakeups.is_over()).cloned()
    }

    /// The mark of a channel, if there is a connection, without making one.
    pub(crate) fn mark(&self, channel: &str) -> u64 {
        self.living().map_or(0, |connection| connection.wakeups.mark(channel))
    }

    /// The connection; made now if there is none. Who waits while another connects shares what comes of it.
    pub(crate) async fn connection(&self) -> Result<Arc<Connection>> {
        match self.living() {
            Some(connection) => Ok(connection),
            None => self.connect_once().await,
        }
    }

    async fn connect_once(&self) -> Result<Arc<Connection>> {
        let came = Instant::now();
        let mut last_failure = self.connecting.lock().await;
        if let Some(connection) = self.living() {
            return Ok(connection);
        }
        if let Some((_, error)) = last_failure.as_ref().filter(|(when, _)| *when > came) {
            return Err(error.clone());
        }
        match self.connect().await {
            Ok(connection) => {
                *last_failure = None;
                *self.current() = Some(connection.clone());
                Ok(connection)
            }
            Err(error) => {
                *last_failure = Some((Instant::now(), error.clone()));
                Err(error)
            }
        }
    }

    async fn connect(&self) -> Result<Arc<Connection>> {
        let wakeups = Arc::new(Wakeups::default());
        let (redis, to) = self.dial.connect(wakeups.clone()).await?;
        let connection = Arc::new(Connection {
            redis,
            to,
            wakeups,
            remembered: OnceLock::new(),
            subscribing: tokio::sync::Mutex::default(),
        });
        let mut load = redis::pipe();
        for script in Script::ALL {
            load.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        const LOADING: &str = "loading scripts";
        let loaded = self
            .within(LOADING, &connection, async { load.query_async(&mut connection.redis.clone()).await })
            .await
            .map_err(|failed| self.error(LOADING, failed))?;
        let _ = HASHES.set(loaded);
        // A user who may not ask has a member that has no vote.
        let told = self.ask(&connection, "looking at the server", &Server::questions()).await;
        let server = Server::told(&self.name, told.map_err(|failed| self.error("looking at the server", failed))?);
        let _ = connection.remembered.set((server.remembered(), Instant::now()));
        Ok(connection)
    }

    /// Sends commands that are no steps; an answer that is an error stands where the others do.
    async fn ask(
        &self,
        connection: &Arc<Connection>,
        doing: &'static str,
        all: &Pipeline,
    ) -> Result<Vec<Value>, Failed> {
        self.within(doing, connection, async { connection.redis.clone().send_packed_commands(all, 0, all.len()).await })
            .await
    }

    /// This connection is of no more use; who waits on it looks again.
    fn retire(&self, connection: &Arc<Connection>) {
        self.current().take_if(|current| Arc::ptr_eq(current, connection));
        connection.wakeups.end();
    }

    /// Runs `call` within our own deadline. The connection is left if it did not keep it.
    async fn within<T>(
        &self,
        doing: &'static str,
        connection: &Arc<Connection>,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, Failed> {
        self.judged(doing, connection, timeout(self.response_timeout, call).await)
    }

    /// What a call brought. The connection is left if it is of no more use.
    fn judged<T>(
        &self,
        doing: &'static str,
        connection: &Arc<Connection>,
        answer: Result<Result<T, RedisError>, Elapsed>,
    ) -> Result<T, Failed> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error::ends_connection(&error) {
                    self.retire(connection);
                }
                Err(Failed::Redis(error))
            }
            Err(_) => {
                self.retire(connection);
                Err(Failed::Ours(error::timed_out(&self.name, doing, self.response_timeout, Effect::Unknown)))
            }
        }
    }

    /// Runs a step, and says on which connection; `asking` tells a member of a cluster that it is sent there although the slot is on its way.
    pub(crate) async fn run(&self, step: &Step, asking: bool) -> Result<(Value, Arc<Connection>), Failed> {
        // What is rarely done is boxed, and what is always done has no future of its own: this is most of what a lock costs.
        let connection = match self.living() {
            Some(connection) => connection,
            None => Box::pin(self.connect_once()).await.map_err(Failed::Ours)?,
        };
        let doing = step.script.doing();
        let answer = match asking {
            false => {
                let mut redis = connection.redis.clone();
                let answer = timeout(self.response_timeout, redis.send_packed_command(&step.command)).await;
                self.judged(doing, &connection, answer.map(|answer| answer.and_then(Value::extract_error)))
            }
            true => Box::pin(self.send(doing, &connection, &step.command, true)).await,
        };
        let answer = match answer {
            // Nothing was run. The text loads the script as well.
            Err(Failed::Redis(error)) if error::is_unknown_script(&error) => {
                Box::pin(self.send(doing, &connection, &step.in_words(), asking)).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    async fn send(
        &self,
        doing: &'static str,
        connection: &Arc<Connection>,
        command: &Cmd,
        asking: bool,
    ) -> Result<Value, Failed> {
        match asking {
            false => self.within(doing, connection, connection.send(command)).await,
            true => self.within(doing, connection, connection.ask_for(command)).await,
        }
    }

    /// Runs a command that is no step.
    pub(crate) async fn command(&self, doing: &'static str, command: &Cmd) -> Result<Value, Failed> {
        let connection = self.connection().await.map_err(Failed::Ours)?;
        self.send(doing, &connection, command, false).await
    }

    /// Runs commands that are no steps; an answer that is an error stands where the others do.
    pub(crate) async fn commands(&self, doing: &'static str, all: &Pipeline) -> Result<Vec<Value>, Failed> {
        let connection = self.connection().await.map_err(Failed::Ours)?;
        self.ask(&connection, doing, all).await
    }

    pub(crate) fn error(&self, doing: &'static str, failed: Failed) -> Error {
        match failed {
            Failed::Ours(error) => error,
            Failed::Redis(error) => error::of_step(&self.name, doing, error),
        }
    }

    /// The channel, and whether it is heard since before this call.
    ///
    /// # Cancel safety
    ///
    /// A channel whose subscription is not confirmed is forgotten, and who waits on it looks again.
    pub(crate) async fn subscribe(&self, channel: &str) -> Result<(Arc<Channel>, bool)> {
        const DOING: &str = "subscribing";
        let connection = self.connection().await?;
        if let Some(heard) = connection.wakeups.find(channel) {
            return Ok((heard, true));
        }
        let _alone = connection.subscribing.lock().await;
        if let Some(heard) = connection.wakeups.find(channel) {
            return Ok((heard, true));
        }
        let idle = connection.wakeups.remove_idle();
        let added = connection.wakeups.add(channel);
        let unconfirmed = Unconfirmed { wakeups: &connection.wakeups, channel };
        self.within(DOING, &connection, async {
            let mut redis = connection.redis.clone();
            if !idle.is_empty() {
                redis.unsubscribe(&idle[..]).await?;
            }
            redis.subscribe(channel).await
        })
        .await
        .map_err(|failed| self.error(DOING, failed))?;
        std::mem::forget(unconfirmed);
        added.tell();
        Ok((added, false))
    }
}

/// A channel that is not heard yet: forgotten if nobody goes on with it.
struct Unconfirmed<'a> {
    wakeups: &'a Wakeups,
    channel: &'a str,
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.wakeups.remove(self.channel);
    }
}

impl Connection {
    /// How far back the server remembers that runs a step which was sent over this connection at this moment. It was
    /// asked when the connection was made, and a server that was started since has another.
    pub(crate) fn remembers(&self, sent: Instant) -> Remembers {
        match self.remembered.get() {
            Some((Remembers::Everything, _)) => Remembers::Everything,
            Some((Remembers::For(time), known)) => Remembers::For(*time + sent.saturating_duration_since(*known)),
            None => Remembers::For(Duration::ZERO),
        }
    }

    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.redis.clone().send_packed_command(command).await?.extract_error()
    }

    /// Sends it to a member of a cluster to which the slot is on its way.
    async fn ask_for(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command.clone());
        let answers: (Value, Value) = both.query_async(&mut self.redis.clone()).await?;
        Ok(answers.1)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("wakeups", &self.wakeups).finish_non_exhaustive()
    }
}

impl Step {
    pub(crate) fn new<W: AsRef<str>>(script: Script, keys: &[W], arguments: &[W]) -> Step {
        let bytes = keys.iter().chain(arguments).map(|word| word.as_ref().len()).sum();
        let mut step = Step::of(script, keys.len(), arguments.len(), bytes);
        keys.iter().chain(arguments).for_each(|word| step.add(word.as_ref()));
        step
    }

    /// A step with so many keys, and as many arguments and bytes of both as are expected, to which they are added.
    pub(crate) fn of(script: Script, keys: usize, arguments: usize, bytes: usize) -> Step {
        const FIRST: usize = 3;
        const BYTES: usize = 64;
        let mut step = Step { script, keys, command: Cmd::with_capacity(FIRST + keys + arguments, BYTES + bytes) };
        match HASHES.get().and_then(|hashes| hashes.get(script as usize)) {
            Some(hash) => ["EVALSHA", hash].map(|word| step.add(word)),
            None => ["EVAL", &script.text()].map(|word| step.add(word)),
        };
        step.add(itoa::Buffer::new().format(keys));
        step
    }

    /// Adds the next key; or the next argument, after the last key.
    pub(crate) fn add(&mut self, word: &str) {
        self.command.arg(word);
    }

    /// With the script's text instead of its hash.
    fn in_words(&self) -> Cmd {
        let mut command = redis::cmd("EVAL");
        command.arg(self.script.text());
        for argument in self.command.args_iter().skip(2) {
            if let Arg::Simple(word) = argument {
                command.arg(word);
            }
        }
        command
    }
}

/// By which the server knows our scripts: the same at every server, and learnt from the first.
static HASHES: OnceLock<Vec<String>> = OnceLock::new();
