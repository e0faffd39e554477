//! The stores are named in a configuration file: the program says what it needs, and the file says where it is.
//!
//! Run it with `cargo run --example profiles --features sqlite`; it needs nothing but this process's memory and a file
//! in a folder that it removes.

use leasehold::{Config, ErrorKind, FencedGuard};

/// What would stand in the configuration file of a program.
const FILE: &str = r#"
    [locks.reports]
    url = "memory:"
    ttl = "10s"

    [locks.ledger]
    store = { scheme = "sqlite", path = "FOLDER/locks.db" }
    purpose = "correctness"
    require = { tokens-survive = ["power-loss"] }

    [locks.wish]
    url = "memory:"
    purpose = "correctness"
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Beside this program and not in the system's temporary folder, which may be in memory: a store whose file a power
    // loss takes is refused for correctness.
    let program = std::env::current_exe()?;
    let folder = tempfile::tempdir_in(program.parent().ok_or("a program without a folder")?)?;
    let config: Config = toml::from_str(&FILE.replace("FOLDER", &folder.path().to_string_lossy()))?;
    let registry = leasehold::registry();

    let reports = config.connect(&registry, "reports")?.await?;
    let guard = reports.lock("nightly-report").acquire().await?;
    println!("The profile \"reports\" gave {:?} for {:?}.", guard.name(), guard.ttl());
    guard.release().await?;

    // Guards of this one carry a token, and the compiler knows it.
    let ledger = config.connect(&registry, "ledger")?.for_correctness().await?;
    book(&ledger.lock("invoice/42").acquire().await?);

    // The same wish of a store that cannot keep it is refused before any lock is held.
    let refused = config.connect(&registry, "wish")?.await.expect_err("memory keeps nothing");
    assert_eq!(refused.kind(), ErrorKind::TooWeak);
    println!("The profile \"wish\" was refused: {refused}.");

    let unknown = config.connect(&registry, "raports").expect_err("there is no such profile");
    println!("A profile that is not there is named: {unknown}.");
    Ok(())
}

/// Takes no guard without a token: such a call does not compile.
fn book(guard: &FencedGuard) {
    println!("The profile \"ledger\" gave {:?} with the token {}.", guard.name(), guard.token());
}
