//! [`Node`]: the connection to one server, made again when it is needed.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join;
use lock_core::{Effect, Error, ErrorKind, Result, Retention};
use redis::aio::MultiplexedConnection;
use redis::{Arg, Cmd, Pipeline, RedisError, Value};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{error::Elapsed, timeout};

use crate::coalescer::Coalescer;
use crate::connector::{Connector, Endpoint};
use crate::error::{self, Redirection};
use crate::script::Script;
use crate::server_info::ServerInfo;
use crate::subscriptions::{Channel, Subscriptions};

/// The connection to one server, shared by everybody and made again when it is needed. Nothing is ever sent twice here.
#[derive(Debug)]
pub(crate) struct Node {
    connector: Connector,
    name: String,
    response_timeout: Duration,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by the one who connects; the last failure is that of all who waited for it.
    connecting: tokio::sync::Mutex<Option<(Instant, Error)>>,
    /// Channels that are to be heard.
    subscribing: Arc<Coalescer<String, Arc<Channel>>>,
    /// The steps that may be under way besides those of the lanes, which bound theirs.
    permits: Semaphore,
    /// Those that are for renewals: what is held must not wait for a crowd.
    renewal_permits: Semaphore,
    /// Steps are run on it: the server must be one for them, and know their scripts.
    runs_steps: bool,
}

/// One connection.
pub(crate) struct Connection {
    redis: MultiplexedConnection,
    /// To whom it leads, which sentinels may tell otherwise later.
    pub(crate) endpoint: Endpoint,
    pub(crate) subscriptions: Arc<Subscriptions>,
    /// How far back the server remembered, and when that was known.
    retention: OnceLock<(Retention, Instant)>,
}

/// One step on the server: a script, its keys, and then its arguments.
pub(crate) struct ScriptCall {
    pub(crate) script: Script,
    pub(crate) keys: usize,
    command: Cmd,
}

/// Why a step brought no answer.
pub(crate) enum CallError {
    /// The server's, or the connection's, words.
    Redis(RedisError),
    /// It is an error of ours already.
    Converted(Error),
}

/// So many steps are under way at a server besides those of the lanes: it works on them for a few milliseconds.
const MAX_IN_FLIGHT: usize = 256;
/// So many channels are subscribed to with one command.
const MAX_SUBSCRIBE_BATCH: usize = 512;

impl Node {
    pub(crate) fn new(connector: Connector, response_timeout: Duration) -> Node {
        Node {
            name: connector.endpoint().to_string(),
            connector,
            response_timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            subscribing: Coalescer::with_max_batch(MAX_SUBSCRIBE_BATCH),
            permits: Semaphore::new(MAX_IN_FLIGHT),
            renewal_permits: Semaphore::new(MAX_IN_FLIGHT),
            runs_steps: true,
        }
    }

    /// One to a server that is known, for commands that are no steps.
    pub(crate) fn for_commands(connector: Connector, response_timeout: Duration) -> Node {
        Node { runs_steps: false, ..Node::new(connector, response_timeout) }
    }

    /// Who is at the other end, for error texts.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_connection(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| !connection.subscriptions.is_closed()).cloned()
    }

    /// The mark of a channel, if there is a connection, without making one.
    pub(crate) fn channel_version(&self, channel: &str) -> u64 {
        self.live_connection().map_or(0, |connection| connection.subscriptions.version(channel))
    }

    /// The connection; made now if there is none. Who waits while another connects shares what comes of it.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>> {
        match self.live_connection() {
            Some(connection) => Ok(connection),
            None => self.connect_shared(Instant::now()).await,
        }
    }

    /// Connects for who `came` at this moment: whoever came before somebody failed to connect has failed with them.
    async fn connect_shared(self: &Arc<Self>, submitted_at: Instant) -> Result<Arc<Connection>> {
        let (node, flag) = (self.clone(), StartFlag::already_set());
        run_detached("connecting", flag, async move {
            let mut last_failure = node.connecting.lock().await;
            if let Some(connection) = node.live_connection() {
                return Ok(connection);
            }
            if let Some((_, error)) = last_failure.as_ref().filter(|(when, _)| *when > submitted_at) {
                return Err(error.clone());
            }
            let connected = node.connect().await;
            *last_failure = connected.as_ref().err().map(|error| (Instant::now(), error.clone()));
            if let Ok(connection) = &connected {
                *node.current() = Some(connection.clone());
            }
            connected
        })
        .await
    }

    async fn connect(&self) -> Result<Arc<Connection>> {
        let subscriptions = Arc::new(Subscriptions::default());
        let (redis, endpoint) = self.connector.connect(subscriptions.clone()).await?;
        let connection = Arc::new(Connection { redis, endpoint, subscriptions, retention: OnceLock::new() });
        if self.runs_steps {
            self.prepare(&connection).await?;
        }
        Ok(connection)
    }

    /// Looks at the server, and loads the scripts, in one round trip.
    async fn prepare(&self, connection: &Arc<Connection>) -> Result<()> {
        const ACTION: &str = "looking at the server and loading scripts";
        let mut pipeline = ServerInfo::queries();
        let queries = pipeline.len();
        for script in Script::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let answers = self.send_pipeline(connection, ACTION, &pipeline).await;
        let mut answers = answers.map_err(|failure| self.error(ACTION, failure))?;
        let loaded = answers.split_off(queries.min(answers.len()));
        // A user who may not ask has a member that has no vote.
        let server = ServerInfo::parse(&self.name, answers);
        if let Some(text) = server.topology_mismatch(&self.connector) {
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let _ = connection.retention.set((server.retention(), Instant::now()));
        let hashes = loaded.into_iter().map(|hash| redis::from_redis_value(hash.extract_error()?).map_err(Into::into));
        let hashes: Result<Vec<String>, RedisError> = hashes.collect();
        let _ = HASHES.set(hashes.map_err(|error| self.error(ACTION, CallError::Redis(error)))?);
        Ok(())
    }

    /// Sends commands that are no steps; an answer that is an error stands where the others do.
    async fn send_pipeline(
        &self,
        connection: &Arc<Connection>,
        action: &'static str,
        all: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        self.within(action, connection, async {
            connection.redis.clone().send_packed_commands(all, 0, all.len()).await
        })
        .await
    }

    /// This connection is of no more use; who waits on it looks again.
    fn retire(&self, connection: &Arc<Connection>) {
        self.current().take_if(|current| Arc::ptr_eq(current, connection));
        connection.subscriptions.close();
    }

    /// Runs `call` within our own deadline. The connection is left if it did not keep it.
    async fn within<T>(
        &self,
        action: &'static str,
        connection: &Arc<Connection>,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, CallError> {
        self.handle_outcome(action, connection, timeout(self.response_timeout, call).await)
    }

    /// What a call brought. The connection is left if it is of no more use.
    fn handle_outcome<T>(
        &self,
        action: &'static str,
        connection: &Arc<Connection>,
        answer: Result<Result<T, RedisError>, Elapsed>,
    ) -> Result<T, CallError> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error::ends_connection(&error) {
                    self.retire(connection);
                }
                Err(CallError::Redis(error))
            }
            Err(_) => {
                self.retire(connection);
                Err(CallError::Converted(error::timed_out(&self.name, action, self.response_timeout, Effect::Unknown)))
            }
        }
    }

    /// Runs a step, and says on which connection. The caller bounds how many are under way, and says when it came if that
    /// is a while ago.
    pub(crate) async fn run(
        self: &Arc<Self>,
        call: &ScriptCall,
        submitted_at: Option<Instant>,
    ) -> Result<(Value, Arc<Connection>), CallError> {
        // What is rarely done is boxed, and what is always done has no future of its own: this is most of what a lock costs.
        let connection = match self.live_connection() {
            Some(connection) => connection,
            None => Box::pin(self.connect_shared(submitted_at.unwrap_or_else(Instant::now)))
                .await
                .map_err(CallError::Converted)?,
        };
        let mut redis = connection.redis.clone();
        let answer = timeout(self.response_timeout, redis.send_packed_command(&call.command)).await;
        let answer = answer.map(|answer| answer.and_then(Value::extract_error));
        let answer = match self.handle_outcome(call.script.action(), &connection, answer) {
            Err(CallError::Redis(error)) if error::is_noscript(&error) => {
                Box::pin(self.run_as_text(&connection, call, false)).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a step when there is a place for it; `asking` tells a member of a cluster that it is sent there although the
    /// slot is on its way.
    pub(crate) async fn run_bounded(
        self: &Arc<Self>,
        call: &ScriptCall,
        asking: bool,
        flag: &StartFlag,
    ) -> Result<(Value, Arc<Connection>), CallError> {
        let submitted_at = Instant::now();
        let permits = if call.script == Script::Renew { &self.renewal_permits } else { &self.permits };
        let _permit = permits.acquire().await;
        flag.set();
        if !asking {
            return self.run(call, Some(submitted_at)).await;
        }
        let connection = self.connection().await.map_err(CallError::Converted)?;
        let answer = match self.send(call.script.action(), &connection, &call.command, true).await {
            Err(CallError::Redis(error)) if error::is_noscript(&error) => {
                self.run_as_text(&connection, call, true).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a step whose script the server does not know, and so has not run. The text loads the script as well.
    async fn run_as_text(
        &self,
        connection: &Arc<Connection>,
        call: &ScriptCall,
        asking: bool,
    ) -> Result<Value, CallError> {
        self.send(call.script.action(), connection, &call.to_eval(), asking).await
    }

    async fn send(
        &self,
        action: &'static str,
        connection: &Arc<Connection>,
        command: &Cmd,
        asking: bool,
    ) -> Result<Value, CallError> {
        match asking {
            false => self.within(action, connection, connection.send(command)).await,
            true => self.within(action, connection, connection.send_asking(command)).await,
        }
    }

    /// Runs a command that is no step.
    pub(crate) async fn command(self: &Arc<Self>, action: &'static str, command: &Cmd) -> Result<Value, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        self.send(action, &connection, command, false).await
    }

    /// Runs commands that are no steps; an answer that is an error stands where the others do.
    pub(crate) async fn commands(
        self: &Arc<Self>,
        action: &'static str,
        all: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        self.send_pipeline(&connection, action, all).await
    }

    /// Runs commands that are no steps; the first error is that of all.
    pub(crate) async fn commands_or_error(
        self: &Arc<Self>,
        action: &'static str,
        all: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        let answers = async {
            let answers = connection.redis.clone().send_packed_commands(all, 0, all.len()).await?;
            answers.into_iter().map(Value::extract_error).collect()
        };
        self.within(action, &connection, answers).await
    }

    pub(crate) fn error(&self, action: &'static str, failure: CallError) -> Error {
        match failure {
            CallError::Converted(error) => error,
            CallError::Redis(error) => error::classify(&self.name, action, error),
        }
    }

    /// The channel, and whether it is heard since before this call. Those that are asked for while others are being
    /// subscribed to go together.
    ///
    /// # Cancel safety
    ///
    /// A channel whose subscription is not confirmed is forgotten, and who waits on it looks again.
    pub(crate) async fn subscribe(self: &Arc<Self>, channel: &str) -> Result<(Arc<Channel>, bool)> {
        let subscribed = self.live_connection().and_then(|connection| connection.subscriptions.find(channel));
        if let Some(subscribed) = subscribed {
            return Ok((subscribed, true));
        }
        let node = self.clone();
        let call = move |channels| {
            let node = node.clone();
            async move { node.subscribe_batch(channels).await }
        };
        Ok((self.subscribing.submit(channel.to_owned(), call).await?, false))
    }

    /// Begins to hear these, and leaves those that nobody waits on.
    async fn subscribe_batch(self: &Arc<Self>, channels: Vec<String>) -> Vec<Result<Arc<Channel>>> {
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return channels.iter().map(|_| Err(error.clone())).collect(),
        };
        let answer = self.subscribe_to(&connection, connection.subscriptions.remove_idle(), &channels).await;
        let denied = |error: &Error| error.kind() == ErrorKind::Denied && channels.len() > 1;
        match answer {
            Err(error) if denied(&error) => {
                // The server refuses all of a command for one.
                let mut answers = Vec::with_capacity(channels.len());
                for channel in channels.chunks(1) {
                    let answer = self.subscribe_to(&connection, Vec::new(), channel).await;
                    answers.push(answer.map(|subscribed| subscribed[0].clone()));
                }
                answers
            }
            Err(error) => channels.iter().map(|_| Err(error.clone())).collect(),
            Ok(subscribed) => subscribed.into_iter().map(Ok).collect(),
        }
    }

    async fn subscribe_to(
        &self,
        connection: &Arc<Connection>,
        idle: Vec<String>,
        channels: &[String],
    ) -> Result<Vec<Arc<Channel>>> {
        const ACTION: &str = "subscribing";
        let subscribed: Vec<_> = channels.iter().map(|channel| connection.subscriptions.add(channel)).collect();
        let (mut unsubscriber, mut subscriber) = (connection.redis.clone(), connection.redis.clone());
        let unsubscribing =
            async move { if idle.is_empty() { Ok(()) } else { unsubscriber.unsubscribe(&idle[..]).await } };
        // They are sent in this order, so that no channel is left that is heard again.
        let both = async { join(unsubscribing, subscriber.subscribe(channels)).await };
        let outcome = self.within(ACTION, connection, async { both.await.1 }).await;
        if let Err(failure) = outcome {
            channels.iter().for_each(|channel| connection.subscriptions.remove(channel));
            return Err(self.error(ACTION, failure));
        }
        // A release may have come before it was heard: who has looked already looks again.
        subscribed.iter().for_each(|channel| channel.notify());
        Ok(subscribed)
    }
}

/// Does it in a task of its own, so that it comes to its end whether or not the caller looks. What has not begun when the
/// caller goes away is not done.
pub(crate) async fn run_detached<T: Send + 'static>(
    action: &'static str,
    flag: StartFlag,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut task = AbortIfUnstarted { task: tokio::spawn(work), flag };
    (&mut task.task).await.unwrap_or_else(|_| {
        let text = format!("redis: the runtime ended while {action}; the outcome is unknown");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    })
}

/// Whether a task has begun with what it is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct StartFlag(Arc<AtomicBool>);

impl StartFlag {
    /// It begins as soon as it runs.
    pub(crate) fn already_set() -> StartFlag {
        StartFlag(Arc::new(AtomicBool::new(true)))
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

struct AbortIfUnstarted<T> {
    task: JoinHandle<T>,
    flag: StartFlag,
}

impl<T> Drop for AbortIfUnstarted<T> {
    fn drop(&mut self) {
        if !self.flag.0.load(Ordering::Acquire) {
            self.task.abort();
        }
    }
}

impl CallError {
    /// Where a cluster keeps what was asked for, if that is why.
    pub(crate) fn redirection(&self) -> Option<Redirection> {
        match self {
            CallError::Redis(error) => error::redirection(error),
            CallError::Converted(_) => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.subscriptions.close();
    }
}

impl Connection {
    /// How far back the server remembers that runs a step which was sent over this connection at this moment. It was
    /// asked when the connection was made, and a server that was started since has another.
    pub(crate) fn retention_at(&self, sent: Instant) -> Retention {
        match self.retention.get() {
            Some((Retention::Complete, _)) => Retention::Complete,
            Some((Retention::Since(time), known)) => Retention::Since(*time + sent.saturating_duration_since(*known)),
            None => Retention::Since(Duration::ZERO),
        }
    }

    async fn send(&self, command: &Cmd) -> Result<Value, RedisError> {
        self.redis.clone().send_packed_command(command).await?.extract_error()
    }

    /// Sends it to a member of a cluster to which the slot is on its way.
    async fn send_asking(&self, command: &Cmd) -> Result<Value, RedisError> {
        let mut both = redis::pipe();
        both.cmd("ASKING").add_command(command.clone());
        let answers: (Value, Value) = both.query_async(&mut self.redis.clone()).await?;
        Ok(answers.1)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("subscriptions", &self.subscriptions).finish_non_exhaustive()
    }
}

impl ScriptCall {
    pub(crate) fn new<W: AsRef<str>>(script: Script, keys: &[W], arguments: &[W]) -> ScriptCall {
        let bytes = keys.iter().chain(arguments).map(|word| word.as_ref().len()).sum();
        let mut call = ScriptCall::with_capacity(script, keys.len(), arguments.len(), bytes);
        keys.iter().chain(arguments).for_each(|word| call.push(word.as_ref()));
        call
    }

    /// A step with so many keys, and as many arguments and bytes of both as are expected, to which they are added.
    pub(crate) fn with_capacity(script: Script, keys: usize, arguments: usize, bytes: usize) -> ScriptCall {
        const FIRST: usize = 3;
        const BYTES: usize = 64;
        let mut call =
            ScriptCall { script, keys, command: Cmd::with_capacity(FIRST + keys + arguments, BYTES + bytes) };
        match HASHES.get().and_then(|hashes| hashes.get(script as usize)) {
            Some(hash) => ["EVALSHA", hash].map(|word| call.push(word)),
            None => ["EVAL", &script.text()].map(|word| call.push(word)),
        };
        call.push(itoa::Buffer::new().format(keys));
        call
    }

    /// Adds the next key; or the next argument, after the last key.
    pub(crate) fn push(&mut self, word: &str) {
        self.command.arg(word);
    }

    /// With the script's text instead of its hash.
    fn to_eval(&self) -> Cmd {
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
