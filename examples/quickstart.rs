//! One lock from acquiring to releasing, and somebody else who wants it meanwhile.
//!
//! Run it with `cargo run --example quickstart`; it needs nothing but this process's memory. Give it a URL, such as
//! `sqlite:/tmp/locks.db` with `--features sqlite`, and it runs on that store.

use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or("memory:".to_owned());
    let locks = leasehold::connect(&url).holder_info("quickstart").await?;
    println!("Connected to {url}. It promises: {:?}", locks.guarantees());

    let report = locks.lock("nightly-report").ttl(Duration::from_secs(10));
    let guard = report.acquire().await?;
    println!("I hold {:?} and may believe so for {:?}, longer if it is renewed.", guard.name(), guard.remaining());

    // Trying never waits, and that somebody else holds the lock is no error.
    let second = report.try_acquire().await?;
    assert!(second.is_none(), "two holders at once");
    let by = locks.inspect("nightly-report").await?.pop().ok_or("nobody holds the lock")?;
    println!("Somebody else tried and did not get it: it is held by {by}.");

    // Waiting has a limit, or none; the waiter gets the lock when it is released.
    let waiter = tokio::spawn(report.clone().wait(Duration::from_secs(10)).acquire());

    let pages = guard.while_held(build_report()).await?;
    println!("The report has {pages} pages, and the lease was valid from its first line to its last.");
    guard.release().await?;
    println!("Released: it was held until now.");

    let guard = waiter.await??;
    println!("The waiter holds {:?} now, with the token {:?}.", guard.name(), guard.token_if_any());
    drop(guard);
    locks.close().await; // what was dropped is given back before the process ends
    let holder = locks.inspect("nightly-report").await?;
    assert!(holder.is_empty(), "still held after everything was given back");
    println!("Nobody holds it any more.");
    Ok(())
}

async fn build_report() -> u32 {
    tokio::time::sleep(Duration::from_millis(50)).await;
    12
}
