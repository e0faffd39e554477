//! [`Members`]: a client for each member, and calls that move on to the next.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::Notify;

use crate::EtcdConfig;
use crate::error::{Judgement, judge, no_answer};

/// A client for each member. A call goes to the member that answered last, and moves on to the next one when it does
/// not: so every call that is made here must be safe to repeat. The client's own balancing would go on sending to a
/// member that is dead.
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

impl From<CallError> for Error {
    fn from(failed: CallError) -> Error {
        failed.error
    }
}

/// Etcd refuses clients that ping more often than every five seconds.
const PING: Duration = Duration::from_secs(6);

/// How often each member is asked in one call. An election takes up to two election time-outs, in which nobody answers.
const PASSES: usize = 2;

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
        let mut cut_off = false;
        let mut last = None;
        let first = self.preferred();
        for turn in 0..self.members.len() * PASSES {
            let index = (first + turn) % self.members.len();
            let judged = match self.call_at(index, doing, &call).await {
                Ok(value) => {
                    self.prefer(index);
                    return Ok(Called { value, cut_off, member: index });
                }
                Err(judged) => judged,
            };
            cut_off |= judged.error.may_have_taken_effect();
            if !judged.move_on {
                last = Some(judged);
                break;
            }
            tracing::debug!(error = %judged.error, "moving on to the next member of etcd");
            last = Some(judged);
        }
        let Judgement { error, lease_is_gone, .. } = last.expect("BUG: there is a member, and it was asked");
        let error = match cut_off && !error.may_have_taken_effect() {
            true => Error::new(error.kind(), Effect::Unknown, error.to_string()),
            false => error,
        };
        Err(CallError { error, lease_is_gone })
    }

    /// Makes a call at one member, once.
    pub(crate) async fn call_at<T, F>(
        &self,
        index: usize,
        doing: &str,
        call: impl Fn(Arc<Client>) -> F,
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
        let client = Arc::new(Client::connect([&member.endpoint], Some(self.options.clone())).await?);
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
