//! A holder is paused past its lease and writes all the same: first without a fence, and then with one.
//!
//! This is the broken program of Martin Kleppmann's "How to do distributed locking" (2016). The pause comes between
//! the last look at the lease and the write, where no look can help; only the resource can tell.
//!
//! Run it with `cargo run --example fenced_write --features sqlite`. The store is SQLite, in a temporary file, since
//! a store in memory is refused for correctness. The paused holder is a process of its own, which stops itself.

use std::path::Path;
use std::process::{Child, Command, ExitCode};
use std::time::Duration;
use std::{env, fs, process};

use leasehold::{ErrorKind, Fence, FencedGuard, FencedLocks, FencingToken};

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// What the slow client ends with when its write is refused.
const REFUSED_EXIT_CODE: u8 = 2;

/// The protected resource: a file of orders. Writing replaces all of it.
struct Orders<'a> {
    directory: &'a Path,
    fence: Option<Fence>,
}

impl Orders<'_> {
    fn open(directory: &Path, with_fence: bool) -> Result<Orders<'_>> {
        let fence = with_fence.then(|| Fence::open(directory.join("orders.fence"))).transpose()?;
        Ok(Orders { directory, fence })
    }

    fn read(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("orders"))?)
    }

    fn write(&self, text: &str, token: &FencingToken) -> Result<()> {
        // The pass is kept across the check and the write.
        let name = "orders".parse()?;
        let _pass = self.fence.as_ref().map(|fence| fence.enter_blocking(&name, token)).transpose()?;
        Ok(fs::write(self.directory.join("orders"), text)?)
    }
}

/// Reads, adds one order, writes; in between it may be paused.
fn add_order(orders: &Orders<'_>, order: &str, guard: &FencedGuard, pause: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = orders.read()?;
    guard.check()?; // the lease is valid here …
    pause()?;
    orders.write(&format!("{before}{order}\n"), guard.token()) // … and here nobody knows
}

async fn connect(directory: &Path) -> Result<FencedLocks> {
    Ok(leasehold::connect(format!("sqlite:{}/locks.db", directory.display())).for_correctness().await?)
}

async fn slow_client(directory: &Path, with_fence: bool) -> Result<ExitCode> {
    let lock = connect(directory).await?.lock("orders").ttl(Duration::from_secs(1));
    let guard = lock.acquire().await?;
    println!("  The slow client holds the lock with the token {}.", guard.token().number());
    let orders = Orders::open(directory, with_fence)?;
    let written = add_order(&orders, "order of the slow client", &guard, || {
        println!("  It has read the orders and looked at its lease, and is paused now.");
        // Everything in this process stops here, its renewals too, until the other client is done.
        signal("STOP", process::id())
    });
    assert!(guard.check().is_err(), "the pause did not outlast the lease");
    match written {
        Err(refusal) if refusal.downcast_ref().map(leasehold::Error::kind) == Some(ErrorKind::Fenced) => {
            println!("  Refused: {refusal}");
            Ok(ExitCode::from(REFUSED_EXIT_CODE))
        }
        written => written.map(|()| ExitCode::SUCCESS),
    }
}

async fn quick_client(directory: &Path, with_fence: bool) -> Result<()> {
    let guard = connect(directory).await?.lock("orders").wait(Duration::from_secs(30)).acquire().await?;
    println!("  The lease has ended: the quick client holds the lock with the token {}.", guard.token().number());
    let orders = Orders::open(directory, with_fence)?;
    add_order(&orders, "order of the quick client", &guard, || Ok(()))?;
    println!("  It has written its order, and releases.");
    Ok(guard.release().await?)
}

fn signal(name: &str, process: u32) -> Result<()> {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status()?;
    sent.success().then_some(()).ok_or_else(|| format!("the signal {name} could not be sent").into())
}

/// The slow client in a process of its own, which is killed when this is dropped.
struct SlowClient(Child);

impl SlowClient {
    fn start(directory: &Path, with_fence: bool) -> Result<SlowClient> {
        let mut command = Command::new(env::current_exe()?);
        Ok(SlowClient(command.arg(directory).arg(with_fence.to_string()).spawn()?))
    }

    /// Waits until it has stopped itself.
    async fn paused(&mut self) -> Result<()> {
        let status = format!("/proc/{}/stat", self.0.id());
        // The state stands behind the name of the program, which is in parentheses.
        while !fs::read_to_string(&status)?.rsplit(") ").next().is_some_and(|state| state.starts_with('T')) {
            if let Some(ended) = self.0.try_wait()? {
                return Err(format!("the slow client ended: {ended}").into());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets it go on, and tells whether its late write was refused.
    fn wake(&mut self) -> Result<bool> {
        println!("  The slow client wakes up, and writes.");
        signal("CONT", self.0.id())?;
        match self.0.wait()? {
            written if written.success() => Ok(false),
            refused if refused.code() == Some(REFUSED_EXIT_CODE.into()) => Ok(true),
            other => Err(format!("the slow client failed: {other}").into()),
        }
    }
}

impl Drop for SlowClient {
    fn drop(&mut self) {
        _ = self.0.kill();
    }
}

/// Runs both clients; gives the orders at the end, and whether the slow client's late write was refused.
async fn race(directory: &Path, with_fence: bool) -> Result<(String, bool)> {
    fs::write(directory.join("orders"), "")?;
    let mut slow = SlowClient::start(directory, with_fence)?;
    slow.paused().await?;
    quick_client(directory, with_fence).await?;
    let refused = slow.wake()?;
    Ok((fs::read_to_string(directory.join("orders"))?, refused))
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    if let [_, directory, with_fence] = &env::args().collect::<Vec<_>>()[..] {
        return slow_client(Path::new(directory), with_fence.parse()?).await;
    }
    // Beside this program, on a disk: where the temporary folder is in memory, the store is refused for correctness.
    let program = env::current_exe()?;
    let directory = tempfile::tempdir_in(program.parent().ok_or("this program is in no folder")?)?;

    println!("Without a fence:");
    let (orders, refused) = race(directory.path(), false).await?;
    assert!(!refused && !orders.contains("quick"), "the late write did no harm");
    println!("  The order of the quick client is lost: its write was overwritten by a late one.\n");

    println!("With a fence:");
    let (orders, refused) = race(directory.path(), true).await?;
    assert!(refused, "the late write was admitted");
    assert_eq!(orders, "order of the quick client\n");
    println!("  The order of the quick client is still there.");
    Ok(ExitCode::SUCCESS)
}
