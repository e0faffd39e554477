//! Work stops by itself when its lease is lost: here because an operator breaks the lock.
//!
//! Run it with `cargo run --example lost_lock`; it needs nothing but this process's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use leasehold::{BreakMode, ErrorKind, LossReason};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let locks = leasehold::connect("memory:").holder_info("importer").await?;
    let guard = locks.lock("import").ttl(Duration::from_millis(300)).acquire().await?;
    println!("I hold {:?}. It is renewed every {:?}.", guard.name(), guard.ttl() / 3);

    let rows = Arc::new(AtomicU32::new(0));
    let operator = tokio::spawn(operator(locks.clone(), rows.clone()));

    let stopped = guard.while_held(import(rows.clone())).await;
    let reason = stopped.expect_err("the import never ends by itself");
    let done = rows.load(Ordering::SeqCst);
    println!("The import was stopped after {done} rows: {reason}.");
    assert_eq!(reason, LossReason::NotHeld);

    // Lost is final, for everybody who looks.
    assert!(!guard.is_valid() && guard.remaining().is_zero());
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rows.load(Ordering::SeqCst), done, "the import goes on");
    println!("It has stopped: there are still {done} rows.");

    let release = guard.release().await.expect_err("a lost lease cannot be released");
    assert_eq!(release.kind(), ErrorKind::Lost);
    println!("Releasing says so too: {release}.");
    operator.await?
}

/// Work that does one row after the other, and can be stopped at each await.
async fn import(rows: Arc<AtomicU32>) {
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        rows.fetch_add(1, Ordering::SeqCst);
    }
}

/// Looks who holds the lock, once the import is under way, and breaks it.
async fn operator(
    locks: leasehold::Locks,
    rows: Arc<AtomicU32>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    while rows.load(Ordering::SeqCst) < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seen = locks.inspect("import").await?.pop().ok_or("nobody holds the lock")?;
    println!("The operator sees {seen}, and breaks the lock.");
    let broken = locks.break_lock("import", &seen, BreakMode::Revoke).await?.ok_or("it was gone already")?;
    println!("The name stays blocked for {:?}, so that the evicted holder is still alone.", broken.free_in);
    Ok(())
}
