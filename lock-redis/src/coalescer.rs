//! [`Coalescer`]: inputs that arrive during a call share the next one.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Makes one call for all inputs that were submitted before it begins. Inputs that arrive during a
/// call share the next one.
///
/// A task of the runtime makes the calls one after the other, so that no caller's answer depends on
/// whether other callers are polled.
#[derive(Debug)]
pub(crate) struct Coalescer<Input, Output> {
    /// Limit of inputs in one call.
    max_batch: usize,
    state: Mutex<State<Input, Output>>,
}

#[derive(Debug)]
struct State<Input, Output> {
    waiting: Vec<(Input, oneshot::Sender<Result<Output>>)>,
    /// A worker makes calls.
    is_running: bool,
}

impl<Input, Output> Coalescer<Input, Output> {
    /// A coalescer with at most `max_batch` inputs in one call.
    pub(crate) fn with_max_batch(max_batch: usize) -> Arc<Coalescer<Input, Output>> {
        Arc::new(Coalescer { max_batch, state: Mutex::new(State { waiting: Vec::new(), is_running: false }) })
    }

    fn state(&self) -> MutexGuard<'_, State<Input, Output>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Input: Send + 'static, Output: Send + 'static> Coalescer<Input, Output> {
    /// The output for an input, by a `call` that begins after this moment. A call returns one
    /// output for each input, in their order. All callers pass the same call.
    ///
    /// # Errors
    ///
    /// Those of the call; unavailable if the runtime has ended.
    ///
    /// # Cancel safety
    ///
    /// An input whose call has not begun is forgotten.
    pub(crate) async fn submit<C, F>(self: &Arc<Self>, input: Input, call: C) -> Result<Output>
    where
        C: Fn(Vec<Input>) -> F + Send + 'static,
        F: Future<Output = Vec<Result<Output>>> + Send,
    {
        let (reply, received) = oneshot::channel();
        let is_running = {
            let mut state = self.state();
            state.waiting.push((input, reply));
            mem::replace(&mut state.is_running, true)
        };
        if !is_running {
            let worker = Worker { coalescer: self.clone(), has_ended: false };
            tokio::spawn(async move {
                while let Some(batch) = worker.coalescer.next_batch() {
                    let (inputs, replies): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
                    let answers = call(inputs).await;
                    replies.into_iter().zip(answers).for_each(|(reply, answer)| drop(reply.send(answer)));
                }
                worker.end();
            });
        }
        received.await.unwrap_or_else(|_| {
            let text = "redis: the runtime that asked for this has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// The next batch; `None` ends the worker.
    fn next_batch(&self) -> Option<Vec<(Input, oneshot::Sender<Result<Output>>)>> {
        let mut state = self.state();
        state.waiting.retain(|(_, reply)| !reply.is_closed());
        if state.waiting.is_empty() {
            state.is_running = false;
            return None;
        }
        let batch = state.waiting.len().min(self.max_batch);
        let left = state.waiting.split_off(batch);
        Some(mem::replace(&mut state.waiting, left))
    }
}

/// The task that makes the calls. If it is dropped with its runtime, or by a panic, the callers
/// fail instead of waiting.
struct Worker<Input, Output> {
    coalescer: Arc<Coalescer<Input, Output>>,
    has_ended: bool,
}

impl<Input, Output> Worker<Input, Output> {
    /// Ends without callers that wait. Another worker may have begun since.
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl<Input, Output> Drop for Worker<Input, Output> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.coalescer.state();
            state.is_running = false;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    /// A call that returns its inputs, once for each permit, and is counted.
    struct Echo {
        coalescer: Arc<Coalescer<u32, u32>>,
        calls: Arc<AtomicUsize>,
        permits: Arc<Semaphore>,
    }

    impl Echo {
        fn new(permits: usize) -> Echo {
            Echo {
                coalescer: Coalescer::with_max_batch(100),
                calls: Arc::default(),
                permits: Arc::new(Semaphore::new(permits)),
            }
        }

        fn ask(&self, input: u32) -> Pin<Box<dyn Future<Output = Result<u32>>>> {
            let (coalescer, calls, permits) = (self.coalescer.clone(), self.calls.clone(), self.permits.clone());
            let call = move |inputs: Vec<u32>| {
                let (calls, permits) = (calls.clone(), permits.clone());
                async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    permits.acquire().await.expect("it is open").forget();
                    inputs.into_iter().map(Ok).collect()
                }
            };
            Box::pin(async move { coalescer.submit(input, call).await })
        }
    }

    #[tokio::test]
    async fn those_that_come_during_a_call_go_with_the_next() {
        let echo = Echo::new(0);
        let mut first = echo.ask(0);
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
        let mut others = Box::pin(join_all((1..100).map(|input| echo.ask(input))));
        assert!((&mut others).now_or_never().is_none());
        echo.permits.add_permits(2);
        assert_eq!(first.await.expect("an answer"), 0);
        let answers: Vec<_> = others.await.into_iter().map(|answer| answer.expect("an answer")).collect();
        assert_eq!(answers, (1..100).collect::<Vec<_>>());
        assert_eq!(echo.calls.load(Ordering::SeqCst), 2);
        echo.permits.add_permits(3);
        let answers = join_all((0..250).map(|input| echo.ask(input))).await;
        assert!(answers.iter().all(Result::is_ok));
        assert_eq!(echo.calls.load(Ordering::SeqCst), 5, "not more than a hundred together");
    }

    #[tokio::test]
    async fn who_does_not_look_keeps_nobody_waiting() {
        let echo = Echo::new(9);
        let mut first = echo.ask(0);
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(echo.ask(1).await.expect("an answer"), 1);
        assert_eq!(first.await.expect("it is kept"), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn who_comes_as_the_task_ends_is_answered_by_the_next() {
        let coalescer = Coalescer::with_max_batch(100);
        let asks = |number: u32| {
            let coalescer = coalescer.clone();
            tokio::spawn(async move {
                for _ in 0..20_000 {
                    let call = |inputs: Vec<u32>| async move { inputs.into_iter().map(Ok).collect() };
                    assert_eq!(coalescer.submit(number, call).await.expect("an answer"), number);
                }
            })
        };
        let all: Vec<_> = (0..3).map(asks).collect();
        for one in all {
            one.await.expect("each is answered");
        }
    }

    #[test]
    fn a_runtime_that_ends_leaves_nobody_waiting() {
        let echo = Echo::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut asked = echo.ask(0);
        runtime.block_on(async { assert!((&mut asked).now_or_never().is_none()) });
        drop(runtime);
        let answer = asked.now_or_never().expect("it is told").expect_err("nobody answers");
        assert!(answer.is_retryable() && answer.may_have_taken_effect());
    }
}
