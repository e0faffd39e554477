//! [`Node`]: one server, with a connection that is made again when needed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::join;
use lock_core::kit::{BatchExecutor, Batcher, PendingOp, Priority};
use lock_core::{Effect, Error, ErrorKind, Result};
use redis::{Cmd, Pipeline, RedisError, Value};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};

use crate::connection::Connection;
use crate::connector::Connector;
use crate::detached::{StartFlag, run_detached};
use crate::error::{self, CallError};
use crate::script::Script;
use crate::script_call::{ScriptCall, set_hashes};
use crate::server_info::ServerInfo;
use crate::subscriptions::{Channel, Subscriptions};

/// One server, with a connection that all callers share and that is made again when needed.
/// Nothing is ever sent twice here.
#[derive(Debug)]
pub(crate) struct Node {
    connector: Connector,
    name: String,
    response_timeout: Duration,
    current: Mutex<Option<Arc<Connection>>>,
    /// Held while one task connects. The last failure, and when it was noted, is shared by all who
    /// waited for that task.
    connecting: tokio::sync::Mutex<Option<(Instant, Error)>>,
    /// Channels to subscribe to.
    subscribing: Batcher<String, Arc<Channel>>,
    /// Bounds the script calls in flight, except those of the batcher, which has a bound of its
    /// own.
    permits: Semaphore,
    /// The same for renewals: a held lock must not wait for a crowd of requests.
    renewal_permits: Semaphore,
    /// True if scripts run here: then the server is checked and the scripts are loaded at connect.
    runs_scripts: bool,
}

/// Limit of script calls in flight at one server, besides the batcher's: a few milliseconds of
/// work.
const MAX_IN_FLIGHT: usize = 256;
/// Limit of channels in one `SUBSCRIBE`.
const MAX_SUBSCRIBE_BATCH: usize = 512;

impl Node {
    pub(crate) fn new(connector: Connector, response_timeout: Duration) -> Node {
        Node {
            name: connector.endpoint().to_string(),
            connector,
            response_timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            subscribing: Batcher::new("redis", MAX_SUBSCRIBE_BATCH),
            permits: Semaphore::new(MAX_IN_FLIGHT),
            renewal_permits: Semaphore::new(MAX_IN_FLIGHT),
            runs_scripts: true,
        }
    }

    /// A node for plain commands: the server is known already and runs no scripts over it.
    pub(crate) fn for_commands(connector: Connector, response_timeout: Duration) -> Node {
        Node { runs_scripts: false, ..Node::new(connector, response_timeout) }
    }

    /// The server's name in error texts.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The error of a call to this node.
    pub(crate) fn error(&self, action: &'static str, failure: CallError) -> Error {
        failure.into_error(&self.name, action)
    }
}

/// Connecting.
impl Node {
    fn current(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live_connection(&self) -> Option<Arc<Connection>> {
        self.current().as_ref().filter(|connection| !connection.subscriptions.is_closed()).cloned()
    }

    /// The connection, which is made if there is none. Callers that arrive while one connects share
    /// its outcome.
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>> {
        match self.live_connection() {
            Some(connection) => Ok(connection),
            None => self.connect_shared(Instant::now()).await,
        }
    }

    /// Connects for a caller that arrived at `submitted_at`. An attempt that failed after that
    /// moment is this caller's failure too, so that a crowd does not try one after the other.
    async fn connect_shared(self: &Arc<Self>, submitted_at: Instant) -> Result<Arc<Connection>> {
        let node = self.clone();
        run_detached("connecting", StartFlag::already_set(), async move {
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
        let connection = Arc::new(Connection::new(redis, endpoint, subscriptions));
        if self.runs_scripts {
            self.prepare(&connection).await?;
        }
        Ok(connection)
    }

    /// Reads the server's state and settings, and loads the scripts, in one round trip.
    async fn prepare(&self, connection: &Arc<Connection>) -> Result<()> {
        const ACTION: &str = "looking at the server and loading scripts";
        let mut pipeline = ServerInfo::queries();
        let query_count = pipeline.len();
        for script in Script::ALL {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let answers = self.within(ACTION, connection, connection.send_pipeline(&pipeline)).await;
        let mut answers = answers.map_err(|failure| self.error(ACTION, failure))?;
        let loaded = answers.split_off(query_count.min(answers.len()));
        // A refused query is no error: that server has no known retention, and no vote in a quorum.
        let server = ServerInfo::parse(&self.name, answers);
        if let Some(text) = server.topology_mismatch(&self.connector) {
            return Err(Error::invalid_config(text));
        }
        connection.set_retention(server.retention());
        let hashes = loaded.into_iter().map(|hash| redis::from_redis_value(hash.extract_error()?).map_err(Into::into));
        let hashes: Result<Vec<String>, RedisError> = hashes.collect();
        set_hashes(hashes.map_err(|error| self.error(ACTION, CallError::Redis(error)))?);
        Ok(())
    }

    /// Gives up a connection that is of no more use. Its waiters ask the store again.
    fn retire(&self, connection: &Arc<Connection>) {
        self.current().take_if(|current| Arc::ptr_eq(current, connection));
        connection.subscriptions.close();
    }
}

/// Calling.
impl Node {
    /// Runs a script, and returns the connection that was used. The caller bounds the calls in
    /// flight; one that has queued the call says since when.
    pub(crate) async fn run(
        self: &Arc<Self>,
        call: &ScriptCall,
        submitted_at: Option<Instant>,
    ) -> Result<(Value, Arc<Connection>), CallError> {
        // This is most of the cost of a lock: rare paths are boxed, and the common path awaits no
        // future of its own.
        let connection = match self.live_connection() {
            Some(connection) => connection,
            None => Box::pin(self.connect_shared(submitted_at.unwrap_or_else(Instant::now)))
                .await
                .map_err(CallError::Converted)?,
        };
        let mut redis = connection.redis();
        let answer = timeout(self.response_timeout, redis.send_packed_command(call.command())).await;
        let answer = answer.map(|answer| answer.and_then(Value::extract_error));
        let answer = match self.handle_outcome(call.script.action(), &connection, answer) {
            Err(CallError::Redis(error)) if error::is_noscript(&error) => {
                Box::pin(self.run_as_text(&connection, call, false)).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a script as soon as there is a permit, and then sets `started`. With `asking`, this
    /// node is the target of a slot migration.
    pub(crate) async fn run_bounded(
        self: &Arc<Self>,
        call: &ScriptCall,
        asking: bool,
        started: &StartFlag,
    ) -> Result<(Value, Arc<Connection>), CallError> {
        let submitted_at = Instant::now();
        let permits = if call.script == Script::Renew { &self.renewal_permits } else { &self.permits };
        let _permit = permits.acquire().await;
        started.set();
        if !asking {
            return self.run(call, Some(submitted_at)).await;
        }
        let connection = self.connection().await.map_err(CallError::Converted)?;
        let answer = match self.send(call.script.action(), &connection, call.command(), true).await {
            Err(CallError::Redis(error)) if error::is_noscript(&error) => {
                self.run_as_text(&connection, call, true).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a script after `NOSCRIPT`, which means that it has not run. The text loads it as well.
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

    /// Runs a plain command.
    pub(crate) async fn command(self: &Arc<Self>, action: &'static str, command: &Cmd) -> Result<Value, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        self.send(action, &connection, command, false).await
    }

    /// Runs plain commands; an error stands in the place of its answer.
    pub(crate) async fn commands(
        self: &Arc<Self>,
        action: &'static str,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        self.within(action, &connection, connection.send_pipeline(pipeline)).await
    }

    /// Runs plain commands; the first error is the error of the whole.
    pub(crate) async fn commands_or_error(
        self: &Arc<Self>,
        action: &'static str,
        pipeline: &Pipeline,
    ) -> Result<Vec<Value>, CallError> {
        let connection = self.connection().await.map_err(CallError::Converted)?;
        let answers =
            async { connection.send_pipeline(pipeline).await?.into_iter().map(Value::extract_error).collect() };
        self.within(action, &connection, answers).await
    }

    /// The server's state and settings, as far as this user may ask.
    pub(crate) async fn server_info(self: &Arc<Self>) -> Result<ServerInfo, CallError> {
        let answers = self.commands("looking at the server", &ServerInfo::queries()).await?;
        Ok(ServerInfo::parse(&self.name, answers))
    }

    /// Runs `call` within the response time-out. A connection that exceeds it is given up.
    async fn within<T>(
        &self,
        action: &'static str,
        connection: &Arc<Connection>,
        call: impl Future<Output = Result<T, RedisError>>,
    ) -> Result<T, CallError> {
        self.handle_outcome(action, connection, timeout(self.response_timeout, call).await)
    }

    /// The result of a call. The connection is given up if it is of no more use.
    fn handle_outcome<T>(
        &self,
        action: &'static str,
        connection: &Arc<Connection>,
        outcome: Result<Result<T, RedisError>, Elapsed>,
    ) -> Result<T, CallError> {
        match outcome {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                if error::ends_connection(&error) {
                    self.retire(connection);
                }
                Err(CallError::Redis(error))
            }
            Err(_) => {
                self.retire(connection);
                Err(CallError::Converted(Error::no_answer(
                    format_args!("{}: {action}", self.name),
                    self.response_timeout,
                    Effect::Unknown,
                )))
            }
        }
    }
}

/// Subscribing.
impl Node {
    /// The version of a channel on the current connection; 0 without one. Makes no connection.
    pub(crate) fn channel_version(&self, channel: &str) -> u64 {
        self.live_connection().map_or(0, |connection| connection.subscriptions.version(channel))
    }

    /// The channel, and true if it was subscribed to before this call. Channels that are asked for
    /// while a `SUBSCRIBE` is in flight share the next one.
    ///
    /// # Cancel safety
    ///
    /// A channel whose subscription is not confirmed is forgotten, and its waiters ask the store
    /// again.
    pub(crate) async fn subscribe(self: &Arc<Self>, channel: &str) -> Result<(Arc<Channel>, bool)> {
        let subscribed = self.live_connection().and_then(|connection| connection.subscriptions.find(channel));
        if let Some(subscribed) = subscribed {
            return Ok((subscribed, true));
        }
        Ok((Batcher::run(self, channel.to_owned(), Priority::Normal).await?, false))
    }

    /// Subscribes to these channels, and unsubscribes from those that are idle.
    async fn subscribe_batch(self: &Arc<Self>, channels: Vec<String>) -> Vec<Result<Arc<Channel>>> {
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return channels.iter().map(|_| Err(error.clone())).collect(),
        };
        let answer = self.subscribe_to(&connection, connection.subscriptions.remove_idle(), &channels).await;
        let is_denied = |error: &Error| error.kind() == ErrorKind::Denied && channels.len() > 1;
        match answer {
            Err(error) if is_denied(&error) => {
                // One forbidden channel makes the server refuse the whole command.
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
        let (mut unsubscriber, mut subscriber) = (connection.redis(), connection.redis());
        let unsubscribing =
            async move { if idle.is_empty() { Ok(()) } else { unsubscriber.unsubscribe(&idle[..]).await } };
        // In this order: a channel that was idle and is wanted again must end up subscribed.
        let both = async { join(unsubscribing, subscriber.subscribe(channels)).await };
        let outcome = self.within(ACTION, connection, async { both.await.1 }).await;
        if let Err(failure) = outcome {
            channels.iter().for_each(|channel| connection.subscriptions.remove(channel));
            return Err(self.error(ACTION, failure));
        }
        // A release may have been published before the subscription: earlier waiters ask again.
        subscribed.iter().for_each(|channel| channel.notify());
        Ok(subscribed)
    }
}

impl BatchExecutor for Node {
    type Op = String;
    type Reply = Arc<Channel>;

    fn batcher(&self) -> &Batcher<String, Arc<Channel>> {
        &self.subscribing
    }

    async fn execute(self: Arc<Self>, batch: Vec<PendingOp<String, Arc<Channel>>>) {
        let (channels, replies): (Vec<_>, Vec<_>) =
            batch.into_iter().map(|pending| (pending.op, pending.reply)).unzip();
        let answers = self.subscribe_batch(channels).await;
        replies.into_iter().zip(answers).for_each(|(reply, answer)| reply.send(answer));
    }
}
