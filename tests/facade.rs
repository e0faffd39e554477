//! The facade: one line swaps the store, and every refusal says what would be accepted.

use leasehold::{ErrorKind, Guarantees, WaitStyle};

async fn refused(url: &str) -> leasehold::Error {
    leasehold::connect(url).await.expect_err(url)
}

#[tokio::test]
async fn a_url_chooses_the_store() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let mut urls = vec!["memory:".to_owned()];
    if cfg!(feature = "sqlite") {
        urls.push(format!("sqlite:{}/locks.db", folder.path().display()));
    }
    for url in urls {
        let locks = leasehold::connect(&url).await.expect(&url);
        let guard = locks.lock("report").acquire().await.expect(&url);
        assert!(locks.lock("report").try_acquire().await.expect(&url).is_none());
        assert_eq!(locks.inspect("report").await.expect(&url).pop().and_then(|by| by.holder), Some(guard.holder()));
        guard.release().await.expect(&url);
        locks.close().await;
    }
}

#[tokio::test]
async fn an_unknown_scheme_is_refused_with_the_stores_that_there_are() {
    let error = refused("consul://h/app").await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("no store consul:") && error.to_string().contains("memory:"), "{error}");
}

#[cfg(not(feature = "sqlite"))]
#[tokio::test]
async fn a_store_that_was_not_compiled_in_is_refused_with_its_feature() {
    let error = refused("sqlite:locks.db").await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("feature `sqlite`"), "{error}");
}

#[tokio::test]
async fn an_unknown_key_is_refused_by_name() {
    let error = refused("memory:?colour=blue").await;
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("\"colour\""), "{error}");
}

#[tokio::test]
async fn a_store_that_is_too_weak_for_correctness_is_refused_with_what_is_missing_and_who_has_it() {
    let error = leasehold::connect("memory:").for_correctness().await.expect_err("memory forgets");
    assert_eq!(error.kind(), ErrorKind::TooWeak);
    let text = error.to_string();
    assert!(text.contains("its fencing tokens do not survive: crash, power loss, fail-over"), "{text}");
    let able = text.split("stores that promise it: ").nth(1).expect("who has it");
    assert_eq!(able.contains("sqlite:"), cfg!(feature = "sqlite"), "{text}");
}

#[tokio::test]
async fn more_than_correctness_can_be_required() {
    let least = Guarantees::NONE.waiting(WaitStyle::Queued);
    assert!(leasehold::connect("memory:").require(least).await.is_ok());
    if cfg!(feature = "sqlite") {
        let folder = tempfile::tempdir().expect("a folder for the test");
        let url = format!("sqlite:{}/locks.db", folder.path().display());
        let error = leasehold::connect(url).require(least).await.expect_err("SQLite has no queue");
        assert!(error.to_string().contains("its waiters are not queued"), "{error}");
    }
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_fenced_guard_has_a_token_and_the_next_one_a_greater() {
    let folder = tempfile::tempdir().expect("a folder for the test");
    let url = format!("sqlite:{}/locks.db", folder.path().display());
    let locks = leasehold::connect(url).for_correctness().await.expect("SQLite keeps its tokens");
    let first = locks.lock("invoice/42").acquire().await.expect("it is free");
    let token = first.token().clone();
    first.release().await.expect("it was held");
    let second = locks.lock("invoice/42").acquire().await.expect("it is free");
    assert!(*second.token() > token);
}
