//! [`Members`]: a client for each member, and calls that move on to the next.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::EtcdConfig;
use crate::error::{Judgement, judge, no_answer};

/// A client for each member. A call goes to the member that answered last, and moves on to the next one when it does
/// not: so every call that is made here must be safe to repeat. The client's own balancing would go on sending to a
/// member that is dead.
///
/// Once a call has failed at one member, the others are asked in short turns, and those asked before may still answer:
/// while a leader is missing, a member that does not know it yet passes the call on to the dead one, where it is lost, and
/// would be waited for in vain long after another leads.
pub(crate) struct Members {
    members: Vec<Member>,
    options: ConnectOptions,
    timeout: Duration,
    preferred: AtomicUsize,
    /// Told when another member is preferred: what hangs on the old one should look after itself.
    moved_on: Notify,
}

struct Member {
    endpoint: String,
    client: Mutex<Option<Arc<Client>>>,
}

/// What a call brought.
pub(crate) struct Called<T> {
    pub(crate) value: T,
    /// A try before this one was cut off: it may have been applied, and may still be.
    pub(crate) cut_off: bool,
    /// Which member answered.
    pub(crate) member: usize,
}

/// How a call failed.
#[derive(Debug)]
pub(crate) struct CallError {
    pub(crate) error: Error,
    pub(crate) lease_is_gone: bool,
}

impl CallError {
    /// Another failure, in which no lease is known to be gone.
    pub(crate) fn of(error: Error) -> CallError {
        CallError { error, lease_is_gone: false }
    }
}

impl Judgement {
    /// What the whole call failed with; `cut_off` if a try of it may have been applied, or may still be.
    fn into_call_error(self, cut_off: bool) -> CallError {
        let error = match cut_off && !self.error.may_have_taken_effect() {
            true => Error::new(self.error.kind(), Effect::Unknown, self.error.to_string()),
            false => self.error,
        };
        CallError { error, lease_is_gone: self.lease_is_gone }
    }
}

impl From<CallError> for Error {
    fn from(failed: CallError) -> Error {
        failed.error
    }
}

/// Etcd refuses clients that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(6);

/// For how many time-outs each member is asked in one call. An election takes up to two election time-outs, in which
/// nobody answers.
const PASSES: usize = 2;

/// In trouble the next member is asked after this part of the time-out.
const TURN: u32 = 4;

/// Where all have answered at once that they cannot, they are asked again after this part of the time-out.
const BREATH: u32 = 16;

impl Members {
    pub(crate) fn new(config: &EtcdConfig) -> Result<Members> {
        if config.endpoints.is_empty() {
            return Err(Error::refused(ErrorKind::InvalidConfig, "etcd needs at least one endpoint"));
        }
        // Each call has a time-out of ours: one of the client's beside it would be another timer for every call.
        let mut options = ConnectOptions::new()
            .with_connect_timeout(config.connect_timeout)
            .with_keep_alive(PING, config.timeout)
            .with_keep_alive_while_idle(false)
            .with_tcp_keepalive(PING)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = &config.login {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &config.tls {
            options = options.with_tls(tls.load()?);
        }
        let scheme = if config.tls.is_some() { "https" } else { "http" };
        let member =
            |endpoint: &String| Member { endpoint: format!("{scheme}://{endpoint}"), client: Mutex::default() };
        Ok(Members {
            members: config.endpoints.iter().map(member).collect(),
            options,
            timeout: config.timeout,
            preferred: AtomicUsize::new(0),
            moved_on: Notify::new(),
        })
    }

    /// How long one member may take to answer.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn endpoint(&self, index: usize) -> &str {
        &self.members[index].endpoint
    }

    /// Which member is preferred now.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Acquire)
    }

    /// Completes when another member than `index` is preferred.
    pub(crate) async fn moved_on_from(&self, index: usize) {
        loop {
            let moved_on = self.moved_on.notified();
            if self.preferred() != index {
                return;
            }
            moved_on.await;
        }
    }

    /// Makes a call that is safe to repeat, at the preferred member first.
    pub(crate) async fn call<T, F>(&self, doing: &str, call: impl Fn(Arc<Client>) -> F) -> Result<Called<T>, CallError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let first = self.preferred();
        match self.call_at(first, doing, &call).await {
            Ok(value) => Ok(Called { value, cut_off: false, member: first }),
            Err(judged) if !judged.move_on => Err(judged.into_call_error(false)),
            // Boxed, so that the future of a call that is answered stays small.
            Err(judged) => Box::pin(self.move_on(first, judged, doing, &call)).await,
        }
    }

    /// Goes on with a call that failed at `first`.
    async fn move_on<T, F>(
        &self,
        first: usize,
        failed: Judgement,
        doing: &str,
        call: &impl Fn(Arc<Client>) -> F,
    ) -> Result<Called<T>, CallError>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let count = self.members.len();
        let patience = count * PASSES;
        let until = Instant::now() + self.timeout * (patience - 1) as u32;
        // There is no use in asking the only member again before it had its time.
        let turn = if count == 1 { self.timeout } else { self.timeout / TURN };
        let mut tries = FuturesUnordered::new();
        let (mut asked, mut ask_at) = (1, Instant::now());
        let mut cut_off = failed.error.may_have_taken_effect();
        // Where nobody was reached at all, there is nothing to wait for.
        let mut reached = failed.reached;
        let mut last = failed;
        loop {
            let goes_on = if reached { Instant::now() < until } else { asked < patience };
            if !goes_on && tries.is_empty() {
                return Err(last.into_call_error(cut_off));
            }
            let judged = tokio::select! {
                Some((index, answer)) = tries.next(), if !tries.is_empty() => match answer {
                    Ok(value) => {
                        self.prefer(index);
                        return Ok(Called { value, cut_off: cut_off || !tries.is_empty(), member: index });
                    }
                    Err(judged) => judged,
                },
                () = tokio::time::sleep_until(ask_at), if goes_on => {
                    let index = (first + asked) % count;
                    tries.push(async move { (index, self.call_at(index, doing, call).await) });
                    (asked, ask_at) = (asked + 1, Instant::now() + turn);
                    continue;
                }
            };
            tracing::debug!(error = %judged.error, "moving on to the next member of etcd");
            cut_off |= judged.error.may_have_taken_effect();
            if !judged.move_on {
                return Err(judged.into_call_error(cut_off || !tries.is_empty()));
            }
            reached |= judged.reached;
            let breath = if asked % count == 0 { self.timeout / BREATH } else { Duration::ZERO };
            ask_at = ask_at.min(Instant::now() + breath);
            last = judged;
        }
    }

    /// Makes a call at one member, once.
    pub(crate) async fn call_at<T, F>(
        &self,
        index: usize,
        doing: &str,
        call: &impl Fn(Arc<Client>) -> F,
    ) -> Result<T, Judgement>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
    {
        let member = &self.members[index];
        let attempt = async { call(self.client(member).await?).await };
        match tokio::time::timeout(self.timeout, attempt).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(failure)) => Err(judge(doing, &member.endpoint, failure)),
            Err(_) => Err(no_answer(doing, &member.endpoint, self.timeout)),
        }
    }

    fn prefer(&self, index: usize) {
        if self.preferred.swap(index, Ordering::AcqRel) != index {
            self.moved_on.notify_waiters();
        }
    }

    /// The member's client. Connecting is lazy, but logs in if there is a login.
    async fn client(&self, member: &Member) -> Result<Arc<Client>, etcd_client::Error> {
        let known = member.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = Arc::new(Box::pin(Client::connect([&member.endpoint], Some(self.options.clone()))).await?);
        let mut known = member.client.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.get_or_insert(client).clone())
    }
}

impl fmt::Debug for Members {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoints: Vec<_> = self.members.iter().map(|member| &member.endpoint).collect();
        f.debug_struct("Members").field("endpoints", &endpoints).finish_non_exhaustive()
    }
}
