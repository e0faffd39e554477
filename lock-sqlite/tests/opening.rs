//! Opening: accepted files, refused files, and the texts of the refusals.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fixture;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use fixture::{Folder, acquire, claim, connect, free, token};
use lock_core::{Error, ErrorKind, LockStore, Registry, ReleaseOutcome, Space};
use lock_sqlite::{SqliteConfig, SqliteDriver, SqliteStore};

/// The refusal of a file: one line that names the path.
async fn refusal(path: &Path) -> Error {
    let mut config = SqliteConfig::new(path);
    config.busy_timeout = Duration::from_millis(200);
    let error = SqliteStore::open(config).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()) && !text.contains('\n'), "{text}");
    assert!(!error.may_have_taken_effect(), "{text}");
    error
}

#[tokio::test]
async fn a_file_is_made_for_this_user_only() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    for name in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let mode = std::fs::metadata(folder.path().with_file_name(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[tokio::test]
async fn every_commit_is_synced_to_a_write_ahead_log() {
    let folder = Folder::new();
    let _store = folder.open().await;
    let mode: String = folder.connect().query_row("pragma journal_mode", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
}

#[tokio::test]
async fn a_url_opens_the_file_and_unknown_keys_are_refused() {
    let folder = Folder::new();
    let registry = Registry::new().with(SqliteDriver);
    let url = format!("sqlite:{}", folder.path().display());
    let locks = registry.connect(&url).for_correctness().await.unwrap();
    let guard = locks.lock("x").try_acquire().await.unwrap().unwrap();
    assert!(guard.token().number() > 0);
    guard.release().await.unwrap();
    let error = registry.connect(format!("{url}?wal=off")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn many_stores_can_make_the_same_file_at_once() {
    for _ in 0..5 {
        let folder = Folder::new();
        let opening: Vec<_> = (0..8).map(|_| tokio::spawn(SqliteStore::open(folder.config()))).collect();
        let mut realms = Vec::new();
        for store in opening {
            realms.push(store.await.unwrap().unwrap().realm());
        }
        realms.dedup();
        assert_eq!(realms.len(), 1, "one file has one realm");
    }
}

#[tokio::test]
async fn a_folder_is_refused() {
    let folder = Folder::new();
    let error = refusal(folder.path().parent().unwrap()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("not a file"), "{error}");
}

#[tokio::test]
async fn a_missing_folder_is_refused_and_not_made() {
    let folder = Folder::new();
    let path = folder.path().with_file_name("missing").join("locks.db");
    let error = refusal(&path).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("its folder must exist"), "{error}");
    assert!(!path.parent().unwrap().exists());
}

#[tokio::test]
async fn a_path_below_a_file_is_refused() {
    let folder = Folder::new();
    std::fs::write(folder.path(), "").unwrap();
    assert_eq!(refusal(&folder.path().join("locks.db")).await.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_place_that_cannot_be_written_to_is_refused() {
    let error = refusal(Path::new("/proc/locks.db")).await;
    assert!(matches!(error.kind(), ErrorKind::InvalidConfig | ErrorKind::Denied), "{error:?}");
}

#[tokio::test]
async fn a_device_is_refused() {
    assert_eq!(refusal(Path::new("/dev/null")).await.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_dangling_link_is_refused() {
    let folder = Folder::new();
    std::os::unix::fs::symlink("nowhere", folder.path()).unwrap();
    assert_eq!(refusal(&folder.path()).await.kind(), ErrorKind::InvalidConfig);
}

#[tokio::test]
async fn a_file_that_is_no_database_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    let text = "this is a letter, and no database at all\n".repeat(100);
    std::fs::write(folder.path(), &text).unwrap();
    let error = refusal(&folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("no SQLite database"), "{error}");
    assert_eq!(std::fs::read_to_string(folder.path()).unwrap(), text);
}

#[tokio::test]
async fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    connect(&folder.path()).execute_batch("create table invoice(id)").unwrap();
    let before = std::fs::read(folder.path()).unwrap();
    let error = refusal(&folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("another program"), "{error}");
    assert_eq!(std::fs::read(folder.path()).unwrap(), before);
}

#[tokio::test]
async fn a_file_of_a_newer_layout_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    drop(folder.open().await);
    folder.write("pragma user_version = 2");
    let error = refusal(&folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("newer layout 2") && error.to_string().contains("knows 1"), "{error}");
    assert_eq!(folder.number("pragma user_version"), 2);
}

#[tokio::test]
async fn a_damaged_file_is_refused() {
    let folder = Folder::new();
    drop(folder.open().await);
    let log = folder.path().with_extension("db-wal");
    folder.until(|| async { !log.exists() }).await;
    let mut bytes = std::fs::read(folder.path()).unwrap();
    // Only the header is left.
    bytes[100..].fill(0xff);
    std::fs::write(folder.path(), bytes).unwrap();
    let error = refusal(&folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("is damaged"), "{error}");
}

#[tokio::test]
async fn a_file_that_another_keeps_busy_is_unavailable() {
    let folder = Folder::new();
    std::fs::write(folder.path(), "").unwrap();
    let writer = folder.writer();
    assert_eq!(refusal(&folder.path()).await.kind(), ErrorKind::Unavailable);
    drop(writer);
    folder.open().await;
}

#[tokio::test]
async fn a_file_of_another_machine_is_refused_until_it_is_adopted() {
    let folder = Folder::new();
    let store = folder.open().await;
    let mine = claim("x");
    let before = acquire(&store, &mine).await.token.unwrap();
    drop(store);
    folder.write(
        "update meta set machine = '00000000000000000000000000000001', boot = 'another', place = 'elsewhere';
         update lease set boot = 'another'",
    );
    let error = refusal(&folder.path()).await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("another machine") && error.to_string().contains("machine=adopt"), "{error}");

    let mut config = folder.config();
    config.adopt = true;
    let store = SqliteStore::open(config.clone()).await.unwrap();
    assert_ne!(store.realm(), *before.realm());
    assert!(free(&store, "x").await, "its leases have ended");
    assert!(token(&store, &mine).await > before.number());
    // It is of this machine now: adopting it again changes nothing.
    let realm = store.realm();
    let again = SqliteStore::open(config).await.unwrap();
    assert_eq!(again.realm(), realm);
    assert!(!free(&again, "x").await);
    assert_eq!(folder.open().await.realm(), realm);
}

#[tokio::test]
async fn an_open_store_notices_that_another_machine_took_its_file_over() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    folder.write("update meta set boot = 'another'");
    let error = store.request(&claim("y")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(!error.may_have_taken_effect() && error.to_string().contains("another machine"), "{error}");
    assert!(store.inspect(claim("x").name(), Space::Locks).await.is_err());
}

#[tokio::test]
async fn a_lease_from_before_a_reboot_has_ended() {
    let folder = Folder::new();
    let store = folder.open().await;
    let before = token(&store, &claim("x")).await;
    let realm = store.realm();
    drop(store);
    folder.write("update meta set boot = 'earlier'; update lease set boot = 'earlier'");
    let store = folder.open().await;
    assert_eq!(store.realm(), realm, "a reboot begins no new realm");
    assert!(free(&store, "x").await);
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 0);
    assert!(token(&store, &claim("x")).await > before);
}

#[tokio::test]
async fn containers_of_one_kernel_share_a_file_whatever_their_machine_ids() {
    let folder = Folder::new();
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    folder.write("update meta set machine = '00000000000000000000000000000001'");
    let other = folder.open().await;
    assert!(!free(&other, "x").await);
    assert_eq!(other.realm(), store.realm());
}

#[tokio::test]
async fn a_file_with_two_names_is_refused() {
    let folder = Folder::new();
    let other = folder.path().with_file_name("other.db");
    let store = folder.open().await;
    let mine = claim("x");
    acquire(&store, &mine).await;
    std::fs::hard_link(folder.path(), &other).unwrap();
    for path in [folder.path(), other.clone()] {
        let error = refusal(&path).await;
        assert_eq!(error.kind(), ErrorKind::InvalidConfig);
        assert!(error.to_string().contains("2 names (hard links)"), "{error}");
    }
    // A store that has it open goes on: no process can open it by the other name.
    assert_eq!(store.release(&mine, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    std::fs::remove_file(other).unwrap();
    folder.open().await;
}

#[tokio::test]
async fn a_log_with_two_names_or_that_is_a_link_is_refused() {
    let folder = Folder::new();
    let log = folder.path().with_extension("db-wal");
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    std::fs::hard_link(&log, log.with_extension("copy")).unwrap();
    assert!(refusal(&log.with_extension("db")).await.to_string().contains("hard links"));
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(log.with_extension("copy"), &log).unwrap();
    assert!(refusal(&log.with_extension("db")).await.to_string().contains("is not a file"));
}

#[tokio::test]
async fn symbolic_links_in_any_part_of_a_path_lead_to_the_same_leases() {
    let folder = Folder::new();
    let at = |name: &str| folder.path().with_file_name(name);
    std::fs::create_dir(at("real")).unwrap();
    std::os::unix::fs::symlink("real", at("linked")).unwrap();
    std::os::unix::fs::symlink("real/locks.db", at("link.db")).unwrap();
    let store = SqliteStore::open(SqliteConfig::new(at("linked").join("locks.db"))).await.unwrap();
    acquire(&store, &claim("x")).await;
    for path in [at("real").join("locks.db"), at("link.db"), at("real/../linked/./locks.db")] {
        let other = SqliteStore::open(SqliteConfig::new(path)).await.unwrap();
        assert!(!free(&other, "x").await);
    }
    assert!(at("real/locks.db-wal").exists() && !at("link.db-wal").exists());
    // A link that leads elsewhere now is noticed.
    std::fs::remove_file(at("linked")).unwrap();
    std::fs::create_dir(at("linked")).unwrap();
    let error = store.request(&claim("y")).await.unwrap_err();
    assert!(error.to_string().contains("removed or replaced"), "{error}");
}

#[tokio::test]
async fn who_only_looks_makes_no_file() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.existing = true;
    let error = SqliteStore::open(config.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("is not there"), "{error}");
    let (registry, url) = (Registry::new().with(SqliteDriver), format!("sqlite:{}", folder.path().display()));
    let error = registry.connect(&url).existing().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(!folder.path().exists());
    let store = folder.open().await;
    acquire(&store, &claim("x")).await;
    assert!(!free(&SqliteStore::open(config).await.unwrap(), "x").await);
    let looking = registry.connect(&url).existing().await.unwrap();
    assert!(!looking.inspect("x").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_file_of_the_first_layout_learns_its_place() {
    let folder = Folder::new();
    drop(folder.open().await);
    let log = folder.path().with_extension("db-wal");
    folder.until(|| async { !log.exists() }).await;
    folder.write("alter table meta drop column place");
    let store = folder.open().await;
    let before = token(&store, &claim("x")).await;
    assert_eq!(folder.number("select count(*) from meta where place is not null"), 1);
    assert!(before > 0 && !free(&folder.open().await, "x").await);
}
