use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::*;

/// Replies with the operation itself, one call for each permit.
struct Echo {
    batcher: Batcher<u32, u32>,
    permits: Semaphore,
    batches: Mutex<Vec<Vec<u32>>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// The executor panics at this operation.
const PANIC: u32 = u32::MAX;
/// The executor gives no reply to this operation.
const NO_REPLY: u32 = u32::MAX - 1;
const MANY: usize = 1_000_000;

impl BatchExecutor for Echo {
    type Op = u32;
    type Reply = u32;

    fn batcher(&self) -> &Batcher<u32, u32> {
        &self.batcher
    }

    async fn execute(self: Arc<Self>, batch: Vec<PendingOp<u32, u32>>) {
        locked(&self.batches).push(batch.iter().map(|pending| pending.op).collect());
        self.most_in_flight.fetch_max(self.in_flight.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        self.permits.acquire().await.expect("it is open").forget();
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
        for pending in batch {
            match pending.op {
                PANIC => panic!("BUG: on purpose"),
                NO_REPLY => {}
                op => pending.reply.send(Ok(op)),
            }
        }
    }
}

impl Echo {
    fn new(permits: usize, batcher: Batcher<u32, u32>) -> Arc<Echo> {
        Arc::new(Echo {
            batcher,
            permits: Semaphore::new(permits),
            batches: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        })
    }

    fn run(self: &Arc<Self>, op: u32) -> impl Future<Output = Result<u32>> + Send + 'static {
        let echo = self.clone();
        async move { Batcher::run(&echo, op, Priority::Normal).await }
    }

    fn run_urgent(self: &Arc<Self>, op: u32) -> impl Future<Output = Result<u32>> + Send + 'static {
        let echo = self.clone();
        async move { Batcher::run(&echo, op, Priority::Urgent).await }
    }

    async fn submit(self: &Arc<Self>, op: u32) -> Result<Submission<Echo>> {
        Batcher::submit(self, || op).await
    }

    /// A caller that sends by itself.
    async fn alone(self: &Arc<Self>) -> Permit<Echo> {
        match self.submit(0).await.expect("no error") {
            Submission::Alone(permit) => permit,
            Submission::Batched(_) => panic!("it was sent with others"),
        }
    }

    fn batches(&self) -> Vec<Vec<u32>> {
        locked(&self.batches).clone()
    }
}

/// One call in flight, and at most a hundred operations in it.
fn one_by_one() -> Batcher<u32, u32> {
    Batcher::new("echo", 100)
}

/// Two calls in flight before operations wait, and up to eight if they do not end.
fn two_to_eight() -> Batcher<u32, u32> {
    Batcher::new("echo", 100).with_in_flight(2, 8)
}

/// Starts a future: polls it once, and expects that it waits.
fn start<F: Future>(future: F) -> Pin<Box<F>> {
    let mut future = Box::pin(future);
    assert!(poll(&mut future).is_pending());
    future
}

fn poll<F: Future>(future: &mut Pin<Box<F>>) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(Waker::noop()))
}

/// Starts one operation for each of these numbers.
fn start_all(echo: &Arc<Echo>, ops: std::ops::Range<u32>) -> Vec<Pin<Box<impl Future<Output = Result<u32>>>>> {
    ops.map(|op| start(echo.run(op))).collect()
}

async fn answers(started: impl IntoIterator<Item = impl Future<Output = Result<u32>>>) -> Vec<u32> {
    let mut answers = Vec::new();
    for one in started {
        answers.push(one.await.expect("an answer"));
    }
    answers
}

/// Lets the tasks run until they wait.
async fn settle() {
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn inside<T>(runtime: &Runtime, work: impl FnOnce() -> T) -> T {
    let _inside = runtime.enter();
    work()
}

fn effect(error: &Error) -> Effect {
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    if error.may_have_taken_effect() { Effect::Unknown } else { Effect::None }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_company_sends_by_itself_and_no_task_is_started() {
    let echo = Echo::new(MANY, two_to_eight());
    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    for _ in 0..10 {
        let both = (echo.alone().await, echo.alone().await);
        assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), tasks);
        drop(both);
    }
    assert!(echo.batches().is_empty());
}

#[tokio::test(start_paused = true)]
async fn operations_that_come_during_calls_travel_together_in_their_order() {
    let echo = Echo::new(MANY, two_to_eight());
    let (first, second) = (echo.alone().await, echo.alone().await);
    let waiting: Vec<_> = (1..20).map(|op| start(echo.submit(op))).collect();
    drop(first);
    for (one, expected) in waiting.into_iter().zip(1..) {
        assert!(matches!(one.await.expect("an answer"), Submission::Batched(op) if op == expected));
    }
    assert_eq!(echo.batches(), [(1..20).collect::<Vec<_>>()]);
    drop(second);
    assert!(matches!(echo.submit(0).await.expect("no error"), Submission::Alone(_)), "no call is in flight any more");
}

#[tokio::test(start_paused = true)]
async fn those_that_come_during_a_call_go_with_the_next() {
    let echo = Echo::new(0, one_by_one());
    let first = start(echo.run(0));
    settle().await;
    let others = start_all(&echo, 1..100);
    echo.permits.add_permits(2);
    assert_eq!(first.await.expect("an answer"), 0);
    assert_eq!(answers(others).await, (1..100).collect::<Vec<_>>());
    assert_eq!(echo.batches().len(), 2);
    echo.permits.add_permits(3);
    assert_eq!(answers(start_all(&echo, 0..250)).await, (0..250).collect::<Vec<_>>());
    assert_eq!(echo.batches().len(), 5, "not more than a hundred together");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_at_a_server_that_does_not_answer_has_a_bounded_number_of_calls_in_flight() {
    let echo = Echo::new(0, two_to_eight());
    let crowd = start_all(&echo, 0..5_000);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(echo.in_flight.load(Ordering::SeqCst), 8);
    echo.permits.add_permits(MANY);
    assert_eq!(answers(crowd).await, (0..5_000).collect::<Vec<_>>());
    assert_eq!(echo.most_in_flight.load(Ordering::SeqCst), 8);
    assert!(echo.batches().iter().all(|batch| batch.len() <= 100));
    let sent: Vec<_> = echo.batches().concat();
    assert_eq!(sent, (0..5_000).collect::<Vec<_>>(), "in the order in which they came, and each once");
}

#[tokio::test(start_paused = true)]
async fn callers_that_are_not_polled_hold_others_up_for_two_intervals_at_most() {
    let echo = Echo::new(MANY, two_to_eight());
    let unpolled = (echo.alone().await, echo.alone().await);
    let waiting = start(echo.submit(1));
    // The timers round up.
    let reply =
        timeout(2 * FLUSH_INTERVAL + Duration::from_millis(5), waiting).await.expect("in time").expect("an answer");
    assert!(matches!(reply, Submission::Batched(1)));
    drop(unpolled);
}

#[tokio::test(start_paused = true)]
async fn who_does_not_look_keeps_nobody_waiting() {
    let echo = Echo::new(MANY, one_by_one());
    let first = start(echo.run(0));
    assert_eq!(echo.run(1).await.expect("an answer"), 1);
    assert_eq!(first.await.expect("it is kept"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_urgent_operation_overtakes_calls_that_do_not_end_and_all_that_wait() {
    let echo = Echo::new(0, one_by_one());
    let first = start(echo.run(0));
    settle().await;
    let crowd = start_all(&echo, 1..1_000);
    let urgent = start(echo.run_urgent(7_000));
    settle().await;
    assert_eq!(echo.batches(), [vec![0], vec![7_000]]);
    // Urgent ones have one call for themselves, and those that come meanwhile share the next.
    let more: Vec<_> = (7_001..7_010).map(|op| start(echo.run_urgent(op))).collect();
    settle().await;
    assert_eq!(echo.in_flight.load(Ordering::SeqCst), 2);
    // The call that is for all takes urgent ones first.
    echo.permits.add_permits(1);
    assert_eq!(first.await.expect("an answer"), 0);
    settle().await;
    let expected: Vec<_> = (7_001..7_010).chain(1..92).collect();
    assert_eq!(echo.batches()[2..], [expected]);
    echo.permits.add_permits(MANY);
    assert_eq!(urgent.await.expect("an answer"), 7_000);
    assert_eq!(answers(more).await, (7_001..7_010).collect::<Vec<_>>());
    assert_eq!(answers(crowd).await, (1..1_000).collect::<Vec<_>>());
    assert_eq!(echo.most_in_flight.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_caller_goes_before_it_is_sent_is_left_out() {
    let echo = Echo::new(0, one_by_one());
    let first = start(echo.run(0));
    settle().await;
    let (gone, next) = (start_all(&echo, 1..500), start(echo.run(500)));
    drop(gone);
    echo.permits.add_permits(MANY);
    assert_eq!(answers([first, next]).await, [0, 500]);
    assert_eq!(echo.batches(), [[0], [500]]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_everybody_has_left_ends_the_call() {
    let echo = Echo::new(MANY, two_to_eight());
    let permits = (echo.alone().await, echo.alone().await);
    drop((1..10).map(|op| start(echo.submit(op))).collect::<Vec<_>>());
    drop(permits);
    settle().await;
    assert!(echo.batches().is_empty());
    drop((echo.alone().await, echo.alone().await));
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_caller_goes_after_it_is_sent_goes_on_and_harms_no_other() {
    let echo = Echo::new(0, one_by_one());
    let first = start(echo.run(0));
    settle().await;
    let (gone, kept) = (start(echo.run(1)), start(echo.run(2)));
    echo.permits.add_permits(1);
    assert_eq!(first.await.expect("an answer"), 0);
    settle().await;
    assert_eq!(echo.batches()[1..], [[1, 2]]);
    drop(gone);
    echo.permits.add_permits(1);
    assert_eq!(kept.await.expect("an answer"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_ends_keeps_nobody_from_leaving() {
    let echo = Echo::new(0, one_by_one());
    let (first, second) = (start(echo.run(0)), start(echo.run(1)));
    assert!(timeout(Duration::from_secs(60), first).await.is_err());
    assert!(timeout(Duration::from_secs(60), second).await.is_err());
    echo.permits.add_permits(MANY);
    assert_eq!(echo.run(2).await.expect("an answer"), 2);
    assert_eq!(echo.batches(), [vec![0, 1], vec![2]]);
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_panics_fails_its_batch_and_serves_the_next() {
    let echo = Echo::new(0, one_by_one());
    let first = start(echo.run(PANIC));
    settle().await;
    let others = start_all(&echo, 1..3);
    echo.permits.add_permits(MANY);
    assert_eq!(effect(&first.await.expect_err("it panicked")), Effect::Unknown);
    assert_eq!(answers(others).await, [1, 2]);
    assert_eq!(echo.run(3).await.expect("an answer"), 3);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_the_executor_leaves_without_a_reply_has_an_error() {
    let echo = Echo::new(MANY, one_by_one());
    let (without, with) = tokio::join!(echo.run(NO_REPLY), echo.run(1));
    assert_eq!(effect(&without.expect_err("no reply")), Effect::Unknown);
    assert_eq!(with.expect("an answer"), 1);
}

#[test]
fn a_runtime_that_ends_after_sending_leaves_nobody_waiting_and_the_outcome_unknown() {
    let (runtime, echo) = (runtime(), Echo::new(0, one_by_one()));
    let (mut sent, mut waiting) = runtime.block_on(async {
        let sent = start(echo.run(0));
        settle().await;
        (sent, start(echo.run(1)))
    });
    drop(runtime);
    let Poll::Ready(answer) = poll(&mut sent) else { panic!("it waits for nobody") };
    let error = answer.expect_err("nobody answers");
    assert!(error.is_retryable() && error.may_have_taken_effect());
    let Poll::Ready(answer) = poll(&mut waiting) else { panic!("it waits for nobody") };
    assert_eq!(effect(&answer.expect_err("nobody answers")), Effect::None);
}

#[test]
fn a_runtime_that_ends_before_sending_certainly_sent_nothing() {
    for batcher in [one_by_one(), two_to_eight()] {
        let (runtime, echo) = (runtime(), Echo::new(MANY, batcher));
        let started = runtime.block_on(async { start_all(&echo, 0..10) });
        drop(runtime);
        for mut one in started {
            let Poll::Ready(answer) = poll(&mut one) else { panic!("it waits for nobody") };
            assert_eq!(effect(&answer.expect_err("nobody answers")), Effect::None);
        }
        assert!(echo.batches().is_empty());
        // It serves the next runtime.
        assert_eq!(self::runtime().block_on(echo.run(1)).expect("an answer"), 1);
    }
}

#[test]
fn a_runtime_that_ends_keeps_the_operations_of_another_from_nothing() {
    let (ended, other, echo) = (runtime(), runtime(), Echo::new(MANY, one_by_one()));
    let mut of_ended = inside(&ended, || start(echo.run(0)));
    let of_other = inside(&other, || start(echo.run(1)));
    drop(ended);
    assert_eq!(other.block_on(of_other).expect("an answer"), 1);
    let Poll::Ready(answer) = poll(&mut of_ended) else { panic!("it waits for nobody") };
    assert_eq!(effect(&answer.expect_err("nobody answers")), Effect::None);
    assert_eq!(echo.batches(), [[1]]);
}

#[test]
fn callers_of_a_runtime_that_has_ended_wait_for_nobody() {
    let (echo, runtime, ended) = (Echo::new(MANY, two_to_eight()), runtime(), self::runtime());
    let permits = runtime.block_on(async { (echo.alone().await, echo.alone().await) });
    let mut waiting = inside(&ended, || start(echo.submit(1)));
    let handle = ended.handle().clone();
    drop(ended);
    assert!(matches!(poll(&mut waiting), Poll::Ready(Err(error)) if effect(&error) == Effect::None));
    let _inside = handle.enter();
    let mut late = Box::pin(echo.submit(2));
    assert!(matches!(poll(&mut late), Poll::Ready(Err(error)) if effect(&error) == Effect::None));
    drop(permits);
    drop(runtime.block_on(async { (echo.alone().await, echo.alone().await) }));
}

#[test]
fn a_permit_that_is_dropped_outside_any_runtime_sends_what_waits() {
    let (echo, runtime) = (Echo::new(MANY, two_to_eight()), runtime());
    let (permits, waiting) =
        runtime.block_on(async { ((echo.alone().await, echo.alone().await), start(echo.submit(1))) });
    drop(permits);
    let reply = runtime.block_on(waiting).expect("an answer");
    assert!(matches!(reply, Submission::Batched(1)));
    assert_eq!(echo.batches(), [[1]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_comes_as_the_task_ends_is_answered_by_the_next() {
    for (batcher, priority) in
        [(one_by_one(), Priority::Normal), (two_to_eight(), Priority::Normal), (one_by_one(), Priority::Urgent)]
    {
        let echo = Echo::new(MANY, batcher);
        let run = |number: u32| {
            let echo = echo.clone();
            tokio::spawn(async move {
                for _ in 0..20_000 {
                    let answer = Batcher::run(&echo, number, priority).await;
                    assert_eq!(answer.expect("an answer"), number);
                }
            })
        };
        let all: Vec<_> = (0..3).map(run).collect();
        for one in all {
            one.await.expect("each is answered");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_thousands_that_come_and_go_each_that_stays_has_its_own_answer() {
    let echo = Echo::new(MANY, two_to_eight());
    let run = |number: u32| {
        let echo = echo.clone();
        tokio::spawn(async move {
            for round in 0..500 {
                let op = number * 1_000 + round;
                if round % 3 == 0 {
                    drop(timeout(Duration::ZERO, echo.submit(op)).await);
                }
                match echo.submit(op).await.expect("an answer") {
                    Submission::Alone(permit) => {
                        tokio::task::yield_now().await;
                        drop(permit);
                    }
                    Submission::Batched(answer) => assert_eq!(answer, op),
                }
            }
        })
    };
    let all: Vec<_> = (0..32).map(run).collect();
    for one in all {
        one.await.expect("each is answered");
    }
    assert!(echo.most_in_flight.load(Ordering::SeqCst) <= 8);
    let ended = async {
        while locked(&echo.batcher.state).in_flight > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), ended).await.expect("no call is in flight any more");
}
