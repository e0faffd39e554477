//! The runtimes that leases depend on: the library's own background runtime, and those of its
//! callers.
//!
//! A lease must not depend on the runtime that happened to acquire first: that one may be idle,
//! between two calls of `block_on`, or have ended. So all work without a caller (renewals, giving
//! back what was dropped) runs on [`background`], a runtime of one thread that the first use starts
//! and that lives as long as the process.
//!
//! The call of a caller runs on the caller's own runtime, over connections that belong to it
//! ([`PerRuntime`]): a reply that crosses to another thread costs about as much as the store's own
//! work. A caller without a tokio runtime, or with one without timers, is served by the background
//! runtime.
//!
//! If a test has paused tokio's clock, the background work runs on the runtime of the test, by the
//! clock of the test.

use std::cell::Cell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Id};
use tokio::task::AbortHandle;

use crate::sync::locked;
use crate::words::{Effect, Error, ErrorKind, Result};

/// The background runtime: one thread, which the first use starts, and which lives as long as the
/// process.
///
/// It is for work without a caller, and must never be blocked.
///
/// # Errors
///
/// [`Unavailable`](ErrorKind::Unavailable) if the system gives no thread or no file descriptors for
/// it; nothing was done.
pub fn background() -> Result<Handle> {
    static STARTING: Mutex<()> = Mutex::new(());
    if let Some(handle) = BACKGROUND.get() {
        return Ok(handle.clone());
    }
    let _alone = locked(&STARTING);
    if let Some(handle) = BACKGROUND.get() {
        return Ok(handle.clone());
    }
    let handle = start().map_err(|error| {
        let text = format!("the background thread of this library could not be started: {error}");
        Error::new(ErrorKind::Unavailable, Effect::None, text)
    })?;
    Ok(BACKGROUND.get_or_init(|| handle).clone())
}

static BACKGROUND: OnceLock<Handle> = OnceLock::new();

fn start() -> std::io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new()
        .name("leasehold".into())
        .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
    Ok(handle)
}

/// The runtime for work without a caller: the background runtime, or that of a test that has set
/// tokio's clock.
pub(crate) fn for_engine() -> Result<Handle> {
    match Handle::try_current() {
        Ok(current) if is_clock_of_test() => Ok(current),
        _ => background(),
    }
}

/// True if tokio's clock was paused, and so is not the system's.
fn is_clock_of_test() -> bool {
    let before = std::time::Instant::now();
    let tokio = tokio::time::Instant::now().into_std();
    tokio < before || tokio > std::time::Instant::now()
}

/// The runtime for a caller's work: the current one if it is complete, otherwise the background
/// runtime.
pub(crate) fn for_caller() -> Result<Handle> {
    match Handle::try_current() {
        Ok(current) if is_complete(current.id()) => Ok(current),
        _ => background(),
    }
}

/// Runs `future` wherever it is polled: with the current runtime if it is complete, otherwise with
/// the timers and connections of the background runtime.
pub(crate) async fn on_any_runtime<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    poll_fn(|context| {
        if Handle::try_current().is_ok_and(|current| is_complete(current.id())) {
            return future.as_mut().poll(context);
        }
        let background = background().ok();
        let _inside = background.as_ref().map(Handle::enter);
        future.as_mut().poll(context)
    })
    .await
}

/// True if the current runtime, which has this id, is complete: it has timers and, where this
/// library needs them, sockets.
fn is_complete(current: Id) -> bool {
    thread_local! {
        static LAST: Cell<Option<(Id, bool)>> = const { Cell::new(None) };
    }
    if BACKGROUND.get().is_some_and(|background| background.id() == current) {
        return true;
    }
    if let Some((id, complete)) = LAST.get()
        && id == current
    {
        return complete;
    }
    let complete = probe();
    LAST.set(Some((current, complete)));
    complete
}

/// Tokio reports only by a panic that a runtime has no timers or sockets.
fn probe() -> bool {
    catch_unwind(AssertUnwindSafe(|| {
        drop(tokio::time::sleep(Duration::ZERO));
        // A test with a clock of its own needs no sockets.
        #[cfg(feature = "net")]
        if !is_clock_of_test() {
            drop(socket());
        }
    }))
    .is_ok()
}

#[cfg(feature = "net")]
fn socket() -> std::io::Result<tokio::net::UdpSocket> {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0")?;
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket)
}

/// One value per runtime: the connections of a store, which work only while the runtime that made
/// them is driven.
///
/// The value of a runtime is dropped when that runtime ends.
pub struct PerRuntime<T> {
    make: Box<dyn Fn() -> T + Send + Sync>,
    values: Arc<Mutex<Vec<Value<T>>>>,
}

struct Value<T> {
    runtime: Id,
    value: Arc<T>,
    /// Task that is dropped when the runtime ends.
    sentinel: Option<AbortHandle>,
}

impl<T: Send + Sync + 'static> PerRuntime<T> {
    /// Values that `make` makes, one at each runtime's first use.
    pub fn new(make: impl Fn() -> T + Send + Sync + 'static) -> PerRuntime<T> {
        PerRuntime { make: Box::new(make), values: Arc::default() }
    }

    /// The value of the current runtime, or of the [`background`] runtime if there is no current
    /// one with timers and sockets.
    ///
    /// # Errors
    ///
    /// As [`background`].
    pub fn get(&self) -> Result<Arc<T>> {
        let runtime = for_caller()?;
        let id = runtime.id();
        if let Some(value) = self.known(id) {
            return Ok(value);
        }
        // Made without the lock, since `make` may ask for another value.
        let made = Arc::new((self.make)());
        let mut values = locked(&self.values);
        if let Some(known) = values.iter().find(|value| value.runtime == id) {
            return Ok(known.value.clone());
        }
        values.push(Value { runtime: id, value: made.clone(), sentinel: None });
        drop(values);
        self.watch(&runtime, id);
        Ok(made)
    }

    /// The values of all runtimes that have not ended.
    pub fn all(&self) -> Vec<Arc<T>> {
        locked(&self.values).iter().map(|value| value.value.clone()).collect()
    }

    fn known(&self, id: Id) -> Option<Arc<T>> {
        locked(&self.values).iter().find(|value| value.runtime == id).map(|value| value.value.clone())
    }

    /// Removes the value of a runtime when the runtime ends, which drops the tasks on it.
    fn watch(&self, runtime: &Handle, id: Id) {
        let end = RemoveOnEnd { runtime: id, values: Arc::downgrade(&self.values) };
        let sentinel = runtime.spawn(async move {
            let _end = end;
            std::future::pending::<()>().await;
        });
        // If there is no entry, the runtime has already ended.
        match locked(&self.values).iter_mut().find(|value| value.runtime == id) {
            Some(value) => value.sentinel = Some(sentinel.abort_handle()),
            None => sentinel.abort(),
        }
    }
}

/// Removes the value of a runtime; dropped when the runtime ends.
struct RemoveOnEnd<T> {
    runtime: Id,
    values: Weak<Mutex<Vec<Value<T>>>>,
}

impl<T> Drop for RemoveOnEnd<T> {
    fn drop(&mut self) {
        let Some(values) = self.values.upgrade() else { return };
        let mut values = locked(&values);
        let Some(index) = values.iter().position(|value| value.runtime == self.runtime) else { return };
        let gone = values.swap_remove(index);
        drop(values);
        drop(gone);
    }
}

impl<T> Drop for Value<T> {
    fn drop(&mut self) {
        if let Some(sentinel) = &self.sentinel {
            sentinel.abort();
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for PerRuntime<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(locked(&self.values).iter().map(|value| &value.value)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    fn counted() -> PerRuntime<usize> {
        let made = AtomicUsize::new(0);
        PerRuntime::new(move || made.fetch_add(1, Ordering::SeqCst))
    }

    #[test]
    fn each_runtime_has_a_value_of_its_own_until_it_ends() {
        let (one, other, values) = (runtime(), runtime(), counted());
        let get = |runtime: &tokio::runtime::Runtime| runtime.block_on(async { *values.get().expect("a value") });
        let (first, second) = (get(&one), get(&other));
        assert_ne!(first, second);
        assert_eq!((get(&one), get(&other)), (first, second));
        drop(one);
        assert_eq!(values.all(), [Arc::new(second)]);
    }

    #[test]
    fn who_has_no_runtime_gets_the_value_of_the_background() {
        let values = counted();
        let outside = *values.get().expect("a value");
        let _inside = background().expect("a thread").enter();
        assert_eq!(*values.get().expect("a value"), outside);
    }

    #[test]
    fn who_has_a_runtime_without_timers_gets_the_value_of_the_background() {
        let values = counted();
        let outside = *values.get().expect("a value");
        let bare = Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(bare.block_on(async { *values.get().expect("a value") }), outside);
    }

    #[test]
    fn a_value_that_is_dropped_leaves_no_task_behind() {
        let runtime = runtime();
        let values = counted();
        runtime.block_on(async { values.get().map(drop) }).expect("a value");
        assert_eq!(runtime.metrics().num_alive_tasks(), 1);
        drop(values);
        runtime.block_on(async { tokio::task::yield_now().await });
        assert_eq!(runtime.metrics().num_alive_tasks(), 0);
    }

    #[test]
    fn what_needs_timers_runs_without_a_runtime() {
        let mut waits = pin!(on_any_runtime(async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            7
        }));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let waited = loop {
            match waits.as_mut().poll(&mut context) {
                std::task::Poll::Ready(waited) => break waited,
                std::task::Poll::Pending => std::thread::yield_now(),
            }
        };
        assert_eq!(waited, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn the_clock_of_a_test_is_known() {
        assert!(is_clock_of_test());
        assert_eq!(for_engine().expect("this one").id(), Handle::current().id());
    }

    #[test]
    fn a_test_with_a_clock_of_its_own_needs_no_sockets() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let (start, clock) = (tokio::time::Instant::now(), std::time::Instant::now());
            on_any_runtime(async { tokio::time::sleep(Duration::from_secs(3600)).await }).await;
            assert!(start.elapsed() >= Duration::from_secs(3600));
            assert!(clock.elapsed() < Duration::from_secs(3600));
        });
    }

    #[tokio::test]
    async fn the_clock_of_the_system_is_known() {
        assert!((0..1000).all(|_| !is_clock_of_test()));
        assert_eq!(for_engine().expect("a thread").id(), background().expect("a thread").id());
    }
}
