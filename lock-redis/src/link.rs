//! [`Link`]: the connection to one server, made again when it is needed.

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

use crate::dial::{Dial, To};
use crate::error::{self, Redirection};
use crate::gathered::Gathered;
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
    /// Channels that are to be heard.
    listening: Arc<Gathered<String, Arc<Channel>>>,
    /// The steps that may be under way besides those of the lanes, which bound theirs.
    places: Semaphore,
    /// Those that are for renewals: what is held must not wait for a crowd.
    places_of_renewals: Semaphore,
    /// Steps are run on it: the server must be one for them, and know their scripts.
    runs_steps: bool,
}

/// One connection.
pub(crate) struct Connection {
    redis: MultiplexedConnection,
    /// To whom it leads, which sentinels may tell otherwise later.
    pub(crate) to: To,
    pub(crate) wakeups: Arc<Wakeups>,
    /// How far back the server remembered, and when that was known.
    remembered: OnceLock<(Retention, Instant)>,
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

/// So many steps are under way at a server besides those of the lanes: it works on them for a few milliseconds.
const PLACES: usize = 256;
/// So many channels are subscribed to with one command.
const HEARD_TOGETHER: usize = 512;

impl Link {
    pub(crate) fn new(dial: Dial, response_timeout: Duration) -> Link {
        Link {
            name: dial.to().to_string(),
            dial,
            response_timeout,
            current: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
            listening: Gathered::at_most(HEARD_TOGETHER),
            places: Semaphore::new(PLACES),
            places_of_renewals: Semaphore::new(PLACES),
            runs_steps: true,
        }
    }

    /// One to a server that is known, for commands that are no steps.
    pub(crate) fn for_commands(dial: Dial, response_timeout: Duration) -> Link {
        Link { runs_steps: false, ..Link::new(dial, response_timeout) }
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
    pub(crate) async fn connection(self: &Arc<Self>) -> Result<Arc<Connection>> {
        match self.living() {
            Some(connection) => Ok(connection),
            None => self.connect_once(Instant::now()).await,
        }
    }

    /// Connects for who `came` at this moment: whoever came before somebody failed to connect has failed with them.
    async fn connect_once(self: &Arc<Self>, came: Instant) -> Result<Arc<Connection>> {
        let (link, begun) = (self.clone(), Begun::already());
        owned("connecting", begun, async move {
            let mut last_failure = link.connecting.lock().await;
            if let Some(connection) = link.living() {
                return Ok(connection);
            }
            if let Some((_, error)) = last_failure.as_ref().filter(|(when, _)| *when > came) {
                return Err(error.clone());
            }
            let connected = link.connect().await;
            *last_failure = connected.as_ref().err().map(|error| (Instant::now(), error.clone()));
            if let Ok(connection) = &connected {
                *link.current() = Some(connection.clone());
            }
            connected
        })
        .await
    }

    async fn connect(&self) -> Result<Arc<Connection>> {
        let wakeups = Arc::new(Wakeups::default());
        let (redis, to) = self.dial.connect(wakeups.clone()).await?;
        let connection = Arc::new(Connection { redis, to, wakeups, remembered: OnceLock::new() });
        if self.runs_steps {
            self.prepare(&connection).await?;
        }
        Ok(connection)
    }

    /// Looks at the server, and loads the scripts, in one round trip.
    async fn prepare(&self, connection: &Arc<Connection>) -> Result<()> {
        const DOING: &str = "looking at the server and loading scripts";
        let mut all = Server::questions();
        let questions = all.len();
        for script in Script::ALL {
            all.cmd("SCRIPT").arg("LOAD").arg(script.text());
        }
        let told = self.ask(connection, DOING, &all).await;
        let mut told = told.map_err(|failed| self.error(DOING, failed))?;
        let loaded = told.split_off(questions.min(told.len()));
        // A user who may not ask has a member that has no vote.
        let server = Server::told(&self.name, told);
        if let Some(text) = server.is_no_place_for(&self.dial) {
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        let _ = connection.remembered.set((server.remembered(), Instant::now()));
        let hashes = loaded.into_iter().map(|hash| redis::from_redis_value(hash.extract_error()?).map_err(Into::into));
        let hashes: Result<Vec<String>, RedisError> = hashes.collect();
        let _ = HASHES.set(hashes.map_err(|error| self.error(DOING, Failed::Redis(error)))?);
        Ok(())
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

    /// Runs a step, and says on which connection. The caller bounds how many are under way, and says when it came if that
    /// is a while ago.
    pub(crate) async fn run(
        self: &Arc<Self>,
        step: &Step,
        came: Option<Instant>,
    ) -> Result<(Value, Arc<Connection>), Failed> {
        // What is rarely done is boxed, and what is always done has no future of its own: this is most of what a lock costs.
        let connection = match self.living() {
            Some(connection) => connection,
            None => Box::pin(self.connect_once(came.unwrap_or_else(Instant::now))).await.map_err(Failed::Ours)?,
        };
        let mut redis = connection.redis.clone();
        let answer = timeout(self.response_timeout, redis.send_packed_command(&step.command)).await;
        let answer = answer.map(|answer| answer.and_then(Value::extract_error));
        let answer = match self.judged(step.script.doing(), &connection, answer) {
            Err(Failed::Redis(error)) if error::is_unknown_script(&error) => {
                Box::pin(self.run_in_words(&connection, step, false)).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a step when there is a place for it; `asking` tells a member of a cluster that it is sent there although the
    /// slot is on its way.
    pub(crate) async fn run_in_place(
        self: &Arc<Self>,
        step: &Step,
        asking: bool,
        begun: &Begun,
    ) -> Result<(Value, Arc<Connection>), Failed> {
        let came = Instant::now();
        let places = if step.script == Script::Renew { &self.places_of_renewals } else { &self.places };
        let _place = places.acquire().await;
        begun.begin();
        if !asking {
            return self.run(step, Some(came)).await;
        }
        let connection = self.connection().await.map_err(Failed::Ours)?;
        let answer = match self.send(step.script.doing(), &connection, &step.command, true).await {
            Err(Failed::Redis(error)) if error::is_unknown_script(&error) => {
                self.run_in_words(&connection, step, true).await?
            }
            answer => answer?,
        };
        Ok((answer, connection))
    }

    /// Runs a step whose script the server does not know, and so has not run. The text loads the script as well.
    async fn run_in_words(&self, connection: &Arc<Connection>, step: &Step, asking: bool) -> Result<Value, Failed> {
        self.send(step.script.doing(), connection, &step.in_words(), asking).await
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
    pub(crate) async fn command(self: &Arc<Self>, doing: &'static str, command: &Cmd) -> Result<Value, Failed> {
        let connection = self.connection().await.map_err(Failed::Ours)?;
        self.send(doing, &connection, command, false).await
    }

    /// Runs commands that are no steps; an answer that is an error stands where the others do.
    pub(crate) async fn commands(self: &Arc<Self>, doing: &'static str, all: &Pipeline) -> Result<Vec<Value>, Failed> {
        let connection = self.connection().await.map_err(Failed::Ours)?;
        self.ask(&connection, doing, all).await
    }

    /// Runs commands that are no steps; the first error is that of all.
    pub(crate) async fn all_of(self: &Arc<Self>, doing: &'static str, all: &Pipeline) -> Result<Vec<Value>, Failed> {
        let connection = self.connection().await.map_err(Failed::Ours)?;
        let answers = async {
            let answers = connection.redis.clone().send_packed_commands(all, 0, all.len()).await?;
            answers.into_iter().map(Value::extract_error).collect()
        };
        self.within(doing, &connection, answers).await
    }

    pub(crate) fn error(&self, doing: &'static str, failed: Failed) -> Error {
        match failed {
            Failed::Ours(error) => error,
            Failed::Redis(error) => error::of_step(&self.name, doing, error),
        }
    }

    /// The channel, and whether it is heard since before this call. Those that are asked for while others are being
    /// subscribed to go together.
    ///
    /// # Cancel safety
    ///
    /// A channel whose subscription is not confirmed is forgotten, and who waits on it looks again.
    pub(crate) async fn subscribe(self: &Arc<Self>, channel: &str) -> Result<(Arc<Channel>, bool)> {
        let heard = self.living().and_then(|connection| connection.wakeups.find(channel));
        if let Some(heard) = heard {
            return Ok((heard, true));
        }
        let link = self.clone();
        let call = move |channels| {
            let link = link.clone();
            async move { link.listen(channels).await }
        };
        Ok((self.listening.ask(channel.to_owned(), call).await?, false))
    }

    /// Begins to hear these, and leaves those that nobody waits on.
    async fn listen(self: &Arc<Self>, channels: Vec<String>) -> Vec<Result<Arc<Channel>>> {
        let connection = match self.connection().await {
            Ok(connection) => connection,
            Err(error) => return channels.iter().map(|_| Err(error.clone())).collect(),
        };
        let answer = self.subscribe_to(&connection, connection.wakeups.remove_idle(), &channels).await;
        let denied = |error: &Error| error.kind() == ErrorKind::Denied && channels.len() > 1;
        match answer {
            Err(error) if denied(&error) => {
                // The server refuses all of a command for one.
                let mut answers = Vec::with_capacity(channels.len());
                for channel in channels.chunks(1) {
                    let answer = self.subscribe_to(&connection, Vec::new(), channel).await;
                    answers.push(answer.map(|heard| heard[0].clone()));
                }
                answers
            }
            Err(error) => channels.iter().map(|_| Err(error.clone())).collect(),
            Ok(heard) => heard.into_iter().map(Ok).collect(),
        }
    }

    async fn subscribe_to(
        &self,
        connection: &Arc<Connection>,
        left: Vec<String>,
        channels: &[String],
    ) -> Result<Vec<Arc<Channel>>> {
        const DOING: &str = "subscribing";
        let heard: Vec<_> = channels.iter().map(|channel| connection.wakeups.add(channel)).collect();
        let (mut leaves, mut hears) = (connection.redis.clone(), connection.redis.clone());
        let leaving = async move { if left.is_empty() { Ok(()) } else { leaves.unsubscribe(&left[..]).await } };
        // They are sent in this order, so that no channel is left that is heard again.
        let both = async { join(leaving, hears.subscribe(channels)).await };
        let told = self.within(DOING, connection, async { both.await.1 }).await;
        if let Err(failed) = told {
            channels.iter().for_each(|channel| connection.wakeups.remove(channel));
            return Err(self.error(DOING, failed));
        }
        // A release may have come before it was heard: who has looked already looks again.
        heard.iter().for_each(|channel| channel.tell());
        Ok(heard)
    }
}

/// Does it in a task of its own, so that it comes to its end whether or not the caller looks. What has not begun when the
/// caller goes away is not done.
pub(crate) async fn owned<T: Send + 'static>(
    doing: &'static str,
    begun: Begun,
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    let mut task = Owned { task: tokio::spawn(work), begun };
    (&mut task.task).await.unwrap_or_else(|_| {
        let text = format!("redis: the runtime ended while {doing}; the outcome is unknown");
        Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
    })
}

/// Whether a task has begun with what it is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Begun(Arc<AtomicBool>);

impl Begun {
    /// It begins as soon as it runs.
    pub(crate) fn already() -> Begun {
        Begun(Arc::new(AtomicBool::new(true)))
    }

    fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Owned<T> {
    task: JoinHandle<T>,
    begun: Begun,
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        if !self.begun.0.load(Ordering::Acquire) {
            self.task.abort();
        }
    }
}

impl Failed {
    /// Where a cluster keeps what was asked for, if that is why.
    pub(crate) fn redirection(&self) -> Option<Redirection> {
        match self {
            Failed::Redis(error) => error::redirection(error),
            Failed::Ours(_) => None,
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.wakeups.end();
    }
}

impl Connection {
    /// How far back the server remembers that runs a step which was sent over this connection at this moment. It was
    /// asked when the connection was made, and a server that was started since has another.
    pub(crate) fn remembers(&self, sent: Instant) -> Retention {
        match self.remembered.get() {
            Some((Retention::Complete, _)) => Retention::Complete,
            Some((Retention::Since(time), known)) => Retention::Since(*time + sent.saturating_duration_since(*known)),
            None => Retention::Since(Duration::ZERO),
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
