//! [`FailOver`]: the attempts of one call at several members.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use crate::call::{CallError, CallReply};
use crate::error::{AttemptError, no_answer};

/// Number of member time-outs in one call, for each member. An election takes up to two election
/// time-outs, and no member answers during it.
pub(crate) const TIMEOUTS_PER_MEMBER: usize = 2;

/// The next member is tried after this fraction of the time-out.
pub(crate) const RETRY_INTERVAL_DIVISOR: u32 = 4;

/// Backoff after every member has failed, as a fraction of the time-out.
const BACKOFF_DIVISOR: u32 = 16;

/// One attempt of a call; it gives the member's index with the result.
pub(crate) type AttemptFuture<'a, T> = Pin<Box<dyn Future<Output = (usize, Result<T, AttemptError>)> + Send + 'a>>;

/// The attempts of a call after the first one failed or is overdue.
///
/// The other members are tried at short intervals, while earlier attempts may still succeed: during
/// an election a member that has not noticed it yet forwards the call to the dead leader, where it
/// is lost. A member is not tried again while it still has the call, since a slow server is not
/// helped by more of the same.
pub(crate) struct FailOver<'a, T> {
    limits: Limits<'a>,
    first: usize,
    /// The attempts in flight, and the members that have one.
    attempts: FuturesUnordered<AttemptFuture<'a, T>>,
    in_flight: Vec<bool>,
    /// Number of attempts so far.
    started: usize,
    next_member: usize,
    next_attempt_at: Instant,
    /// A failed attempt may have been applied, or may still be.
    in_doubt: bool,
    /// At least one member was reached. If none is, there is nothing to wait for.
    reached: bool,
    last_failure: AttemptError,
}

/// The limits of one call.
pub(crate) struct Limits<'a> {
    pub(crate) action: &'a str,
    /// Number of members.
    pub(crate) members: usize,
    /// The endpoint of the member that was tried first.
    pub(crate) first_endpoint: &'a str,
    pub(crate) member_timeout: Duration,
    pub(crate) call_timeout: Duration,
    pub(crate) deadline: Instant,
}

impl<'a, T> FailOver<'a, T> {
    /// Continues a call that failed at the member `first`, or is still in flight there.
    pub(crate) fn new(
        limits: Limits<'a>,
        first: usize,
        failure: AttemptError,
        in_flight: Option<AttemptFuture<'a, T>>,
    ) -> FailOver<'a, T> {
        let mut has_attempt = vec![false; limits.members];
        has_attempt[first] = in_flight.is_some();
        FailOver {
            limits,
            first,
            attempts: in_flight.into_iter().collect(),
            in_flight: has_attempt,
            started: 1,
            next_member: first + 1,
            next_attempt_at: Instant::now(),
            in_doubt: failure.error.may_have_taken_effect(),
            reached: failure.reached,
            last_failure: failure,
        }
    }

    /// Tries the members until one replies, or one fails for good, or the time is over.
    pub(crate) async fn run(
        mut self,
        attempt: impl Fn(usize) -> AttemptFuture<'a, T>,
    ) -> Result<CallReply<T>, CallError> {
        loop {
            let may_start = self.may_start();
            if !may_start && self.attempts.is_empty() {
                return Err(self.last_failure.into_call_error(self.in_doubt));
            }
            if !may_start && self.reached {
                return Err(self.timed_out());
            }
            let idle = self.idle_member();
            let (index, result) = tokio::select! {
                Some(ended) = self.attempts.next(), if !self.attempts.is_empty() => ended,
                () = tokio::time::sleep_until(self.next_attempt_at), if may_start && idle.is_some() => {
                    let index = idle.unwrap_or(self.first);
                    self.start(index, attempt(index));
                    continue;
                }
                () = tokio::time::sleep_until(self.limits.deadline), if self.reached => continue,
            };
            self.in_flight[index] = false;
            let others_in_flight = !self.attempts.is_empty();
            match result {
                Ok(value) => {
                    return Ok(CallReply { value, in_doubt: self.in_doubt || others_in_flight, member: index });
                }
                Err(failure) => self.record(failure),
            }
            if !self.last_failure.fail_over {
                return Err(self.last_failure.into_call_error(self.in_doubt || others_in_flight));
            }
        }
    }

    fn may_start(&self) -> bool {
        if self.reached {
            Instant::now() < self.limits.deadline
        } else {
            self.started < self.limits.members * TIMEOUTS_PER_MEMBER
        }
    }

    /// The next member without an attempt in flight.
    fn idle_member(&self) -> Option<usize> {
        let count = self.limits.members;
        (self.next_member..self.next_member + count).map(|index| index % count).find(|index| !self.in_flight[*index])
    }

    fn start(&mut self, index: usize, attempt: AttemptFuture<'a, T>) {
        self.in_flight[index] = true;
        self.attempts.push(attempt);
        self.started += 1;
        self.next_member = index + 1;
        self.next_attempt_at = Instant::now() + self.retry_interval();
    }

    /// The only member gets its whole time-out before it is tried again.
    fn retry_interval(&self) -> Duration {
        let timeout = self.limits.member_timeout;
        if self.limits.members == 1 { timeout } else { timeout / RETRY_INTERVAL_DIVISOR }
    }

    fn record(&mut self, failure: AttemptError) {
        tracing::debug!(error = %failure.error, "moving on to the next member of etcd");
        self.in_doubt |= failure.error.may_have_taken_effect();
        self.reached |= failure.reached;
        let all_tried = self.started.is_multiple_of(self.limits.members);
        let backoff = if all_tried { self.limits.member_timeout / BACKOFF_DIVISOR } else { Duration::ZERO };
        self.next_attempt_at = self.next_attempt_at.min(Instant::now() + backoff);
        self.last_failure = failure;
    }

    fn timed_out(&self) -> CallError {
        let Limits { action, first_endpoint, call_timeout, .. } = self.limits;
        no_answer(action, first_endpoint, call_timeout).into_call_error(true)
    }
}
