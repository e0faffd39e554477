//! [`Gathered`]: questions that come while a call is under way go together with the next.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lock_core::{Effect, Error, ErrorKind, Result};
use tokio::sync::oneshot;

/// Questions that come while a call is under way go together with the next: one call answers all who asked before it.
///
/// The calls are made one after the other by a task of the runtime, so that nobody's answer depends on whether others
/// look at theirs.
#[derive(Debug)]
pub(crate) struct Gathered<Q, A> {
    /// So many questions go with one call at most.
    most: usize,
    state: Mutex<State<Q, A>>,
}

#[derive(Debug)]
struct State<Q, A> {
    waiting: Vec<(Q, oneshot::Sender<Result<A>>)>,
    /// A task makes calls.
    runs: bool,
}

impl<Q, A> Gathered<Q, A> {
    /// At most so many questions go with one call.
    pub(crate) fn at_most(most: usize) -> Arc<Gathered<Q, A>> {
        Arc::new(Gathered { most, state: Mutex::new(State { waiting: Vec::new(), runs: false }) })
    }

    fn state(&self) -> MutexGuard<'_, State<Q, A>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<Q: Send + 'static, A: Send + 'static> Gathered<Q, A> {
    /// The answer to a question, by a `call` that begins after this moment. A call gives as many answers as there are
    /// questions, in their order; all callers name the same one.
    ///
    /// # Errors
    ///
    /// What the call says; unavailable if the runtime has ended.
    ///
    /// # Cancel safety
    ///
    /// A question whose call has not begun is forgotten.
    pub(crate) async fn ask<C, F>(self: &Arc<Self>, question: Q, call: C) -> Result<A>
    where
        C: Fn(Vec<Q>) -> F + Send + 'static,
        F: Future<Output = Vec<Result<A>>> + Send,
    {
        let (answer, told) = oneshot::channel();
        let runs = {
            let mut state = self.state();
            state.waiting.push((question, answer));
            mem::replace(&mut state.runs, true)
        };
        if !runs {
            let running = Running { questions: self.clone(), has_ended: false };
            tokio::spawn(async move {
                while let Some(together) = running.questions.next() {
                    let (questions, askers): (Vec<_>, Vec<_>) = together.into_iter().unzip();
                    let answers = call(questions).await;
                    askers.into_iter().zip(answers).for_each(|(asker, answer)| drop(asker.send(answer)));
                }
                running.end();
            });
        }
        told.await.unwrap_or_else(|_| {
            let text = "redis: the runtime that asked for this has ended; the outcome is unknown";
            Err(Error::new(ErrorKind::Unavailable, Effect::Unknown, text))
        })
    }

    /// Those that wait; none ends the task.
    fn next(&self) -> Option<Vec<(Q, oneshot::Sender<Result<A>>)>> {
        let mut state = self.state();
        state.waiting.retain(|(_, asker)| !asker.is_closed());
        if state.waiting.is_empty() {
            state.runs = false;
            return None;
        }
        let together = state.waiting.len().min(self.most);
        let left = state.waiting.split_off(together);
        Some(mem::replace(&mut state.waiting, left))
    }
}

/// The task that makes the calls. Dropped with its runtime, or by a panic, it keeps nobody waiting.
struct Running<Q, A> {
    questions: Arc<Gathered<Q, A>>,
    has_ended: bool,
}

impl<Q, A> Running<Q, A> {
    /// Nobody waited any more. Another task may have begun since.
    fn end(mut self) {
        self.has_ended = true;
    }
}

impl<Q, A> Drop for Running<Q, A> {
    fn drop(&mut self) {
        if !self.has_ended {
            let mut state = self.questions.state();
            state.runs = false;
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

    /// Answers each question with itself, as often as it may; and counts the calls.
    struct Echo {
        questions: Arc<Gathered<u32, u32>>,
        calls: Arc<AtomicUsize>,
        may: Arc<Semaphore>,
    }

    impl Echo {
        fn new(may: usize) -> Echo {
            Echo { questions: Gathered::at_most(100), calls: Arc::default(), may: Arc::new(Semaphore::new(may)) }
        }

        fn ask(&self, question: u32) -> Pin<Box<dyn Future<Output = Result<u32>>>> {
            let (questions, calls, may) = (self.questions.clone(), self.calls.clone(), self.may.clone());
            let call = move |questions: Vec<u32>| {
                let (calls, may) = (calls.clone(), may.clone());
                async move {
                    calls.fetch_add(1, Ordering::SeqCst);
                    may.acquire().await.expect("it is open").forget();
                    questions.into_iter().map(Ok).collect()
                }
            };
            Box::pin(async move { questions.ask(question, call).await })
        }
    }

    #[tokio::test]
    async fn those_that_come_during_a_call_go_with_the_next() {
        let echo = Echo::new(0);
        let mut first = echo.ask(0);
        assert!((&mut first).now_or_never().is_none());
        tokio::task::yield_now().await;
        let mut others = Box::pin(join_all((1..100).map(|question| echo.ask(question))));
        assert!((&mut others).now_or_never().is_none());
        echo.may.add_permits(2);
        assert_eq!(first.await.expect("an answer"), 0);
        let answers: Vec<_> = others.await.into_iter().map(|answer| answer.expect("an answer")).collect();
        assert_eq!(answers, (1..100).collect::<Vec<_>>());
        assert_eq!(echo.calls.load(Ordering::SeqCst), 2);
        echo.may.add_permits(3);
        let answers = join_all((0..250).map(|question| echo.ask(question))).await;
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
        let questions = Gathered::at_most(100);
        let asks = |number: u32| {
            let questions = questions.clone();
            tokio::spawn(async move {
                for _ in 0..20_000 {
                    let call = |questions: Vec<u32>| async move { questions.into_iter().map(Ok).collect() };
                    assert_eq!(questions.ask(number, call).await.expect("an answer"), number);
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
