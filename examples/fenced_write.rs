//! A holder is paused past its lease and writes all the same: first without a fence, and then with one.
//!
//! This is the broken program of Martin Kleppmann's "How to do distributed locking" (2016). The pause comes between
//! the last look at the lease and the write, where no look can help; only the resource can tell.
//!
//! Run it with `cargo run --example fenced_write --features sqlite`. The store is SQLite, in a temporary file, since
//! a store in memory is refused for correctness.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use std::{fs, thread};

use leasehold::{ErrorKind, Fence, FencedGuard, FencedLocks, FencingToken};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// The protected resource: a file of orders. Writing replaces all of it.
#[derive(Clone)]
struct Orders {
    file: PathBuf,
    fence: Option<Fence>,
}

impl Orders {
    fn read(&self) -> Result<String> {
        Ok(fs::read_to_string(&self.file)?)
    }

    fn write(&self, text: &str, token: &FencingToken) -> Result<()> {
        // The pass is kept across the check and the write.
        let name = "orders".parse()?;
        let _pass = self.fence.as_ref().map(|fence| fence.enter_blocking(&name, token)).transpose()?;
        Ok(fs::write(&self.file, text)?)
    }
}

/// Reads, adds one order, writes; in between it may be paused.
fn add_order(orders: &Orders, order: &str, guard: &FencedGuard, pause: impl FnOnce()) -> Result<()> {
    let before = orders.read()?;
    guard.check()?; // the lease is valid here …
    pause();
    orders.write(&format!("{before}{order}\n"), guard.token()) // … and here nobody knows
}

/// Each client is a process of its own in real life; here it is a thread with a runtime of its own, so that a pause
/// stops its renewals too.
fn client(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

async fn connect(directory: &Path) -> Result<FencedLocks> {
    Ok(leasehold::connect(format!("sqlite:{}/locks.db", directory.display())).for_correctness().await?)
}

async fn slow_client(directory: &Path, orders: &Orders, go: impl FnOnce(), wake: Receiver<()>) -> Result<()> {
    let lock = connect(directory).await?.lock("orders").ttl(Duration::from_secs(1));
    let guard = lock.acquire().await?;
    println!("  The slow client holds the lock with the token {}.", guard.token().number());
    let written = add_order(orders, "order of the slow client", &guard, || {
        println!("  It has read the orders and looked at its lease, and is paused now.");
        go();
        // Blocks the whole thread, as a pause of the process does, until the other client is done.
        _ = wake.recv();
    });
    assert!(guard.check().is_err(), "the pause did not outlast the lease");
    written
}

async fn quick_client(directory: &Path, orders: &Orders) -> Result<()> {
    let guard = connect(directory).await?.lock("orders").wait(Duration::from_secs(30)).acquire().await?;
    println!("  The lease has ended: the quick client holds the lock with the token {}.", guard.token().number());
    add_order(orders, "order of the quick client", &guard, || ())?;
    println!("  It has written its order, and releases.");
    Ok(guard.release().await?)
}

/// Runs both clients; gives what the slow client's late write came to.
fn race(directory: &Path, orders: &Orders) -> Result<Result<()>> {
    fs::write(&orders.file, "")?;
    let (paused, is_paused) = channel();
    let (wake, woken) = channel();
    thread::scope(|scope| {
        let slow = scope.spawn(move || client(slow_client(directory, orders, move || _ = paused.send(()), woken)));
        is_paused.recv()?;
        client(quick_client(directory, orders))?;
        println!("  The slow client wakes up, and writes.");
        drop(wake);
        Ok(slow.join().expect("the slow client panicked"))
    })
}

fn main() -> Result<()> {
    // Beside this program, on a disk: where the temporary folder is in memory, the store is refused for correctness.
    let program = std::env::current_exe()?;
    let directory = tempfile::tempdir_in(program.parent().ok_or("this program is in no folder")?)?;
    let unfenced = Orders { file: directory.path().join("orders"), fence: None };

    println!("Without a fence:");
    race(directory.path(), &unfenced)??;
    let lost = !unfenced.read()?.contains("quick");
    assert!(lost, "the late write did no harm");
    println!("  The order of the quick client is lost: its write was overwritten by a late one.\n");

    println!("With a fence:");
    let fence = Fence::open(directory.path().join("orders.fence"))?;
    let fenced = Orders { fence: Some(fence), ..unfenced };
    let refused = race(directory.path(), &fenced)?.expect_err("the late write was admitted");
    assert_eq!(refused.downcast_ref().map(leasehold::Error::kind), Some(ErrorKind::Fenced));
    println!("  Refused: {refused}");
    assert_eq!(fenced.read()?, "order of the quick client\n");
    println!("  The order of the quick client is still there.");
    Ok(())
}
