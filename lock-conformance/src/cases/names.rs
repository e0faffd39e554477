//! P9: no two names collide, and every name is listed unchanged.

use std::collections::BTreeMap;
use std::sync::Arc;

use lock_core::{Claim, LockName, LockStore, Space};

use super::sample_names::{LOOKALIKES, UNICODE_LOOKALIKES};
use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};
use crate::factory::Failure;
use crate::random::Random;

cases! { "names";
    [] {
        that_look_alike_are_kept_apart,
        of_every_length_are_kept_apart,
        at_random_are_kept_apart,
        of_other_alphabets_and_forms_are_kept_apart,
        are_listed_as_they_are_in_byte_order,
        are_listed_page_by_page,
        of_free_locks_are_not_listed,
    }
}

/// Holds all these names at once, each by its own holder, and checks that each is shown with its
/// holder.
async fn expect_distinct(cx: &Context, texts: impl IntoIterator<Item = String>) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let held = hold(cx, &a, texts).await?;
    for claim in held.values() {
        cx.expect_holder(&b, claim).await?;
    }
    let listed = b.list(Space::Locks, None, held.len() + 1).await?;
    let names: Vec<_> = listed.iter().map(|(name, _)| name).collect();
    ensure!(names.len() == held.len(), "{} locks are held, and {} are listed", held.len(), names.len());
    for ((listed, by), (name, claim)) in listed.iter().zip(&held) {
        ensure!(listed == name, "{name:?} is listed as {listed:?}");
        ensure!(by[0].holder == Some(claim.holder()), "{name:?} is listed with another holder: {by:?}");
    }
    for claim in held.values() {
        cx.release_held(&a, claim).await?;
    }
    Ok(())
}

async fn hold(
    cx: &Context,
    store: &Arc<dyn LockStore>,
    texts: impl IntoIterator<Item = String>,
) -> Result<BTreeMap<LockName, Claim>, Failure> {
    let mut held = BTreeMap::new();
    for text in texts {
        let name = name(&text);
        if held.contains_key(&name) {
            continue;
        }
        let claim = cx.claim(&name);
        cx.expect_granted(store, &claim)
            .await
            .map_err(|error| format!("{name:?} collides with another name: {error}"))?;
        held.insert(name, claim);
    }
    Ok(held)
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

async fn that_look_alike_are_kept_apart(cx: Context) -> CaseResult {
    expect_distinct(&cx, owned(LOOKALIKES)).await
}

async fn of_every_length_are_kept_apart(cx: Context) -> CaseResult {
    let mut texts = Vec::new();
    for length in [1, 2, 31, 32, 33, 62, 63, 64, 65, 127, 128, 129, 199, 200, 254, 255, 256, 257, 400, 511, 512] {
        texts.push("x".repeat(length));
        texts.push(format!("{}y", "x".repeat(length - 1)));
        texts.push("%".repeat(length));
    }
    texts.push("é".repeat(256));
    texts.push("\u{10ffff}".repeat(128));
    expect_distinct(&cx, texts).await
}

async fn of_other_alphabets_and_forms_are_kept_apart(cx: Context) -> CaseResult {
    expect_distinct(&cx, owned(UNICODE_LOOKALIKES)).await
}

async fn at_random_are_kept_apart(cx: Context) -> CaseResult {
    let mut random = Random::new(7);
    let pieces = ["a", "A", "/", "%", "%2F", "_", "'", "\\", " ", ".", "é", "e\u{301}", "0", ":", "\u{10ffff}"];
    let mut texts = Vec::new();
    for _ in 0..60 {
        let length = 1 + random.below(8);
        let text: String = (0..length).map(|_| pieces[random.below(pieces.len() as u64) as usize]).collect();
        // The second name has one piece more.
        texts.push(format!("{text}{}", pieces[random.below(pieces.len() as u64) as usize]));
        texts.push(text);
    }
    expect_distinct(&cx, texts).await
}

async fn are_listed_as_they_are_in_byte_order(cx: Context) -> CaseResult {
    let texts =
        ["b", "a/b", "a", "a.b", "Z", "é", "z", "\u{10ffff}", "\u{e000}", "a b", "%", "aa", "A", "0", "a\u{7e}"];
    let store = cx.open().await?;
    let held = hold(&cx, &store, owned(&texts)).await?;
    let listed: Vec<_> = store.list(Space::Locks, None, 100).await?.into_iter().map(|(name, _)| name).collect();
    let expected: Vec<_> = held.into_keys().collect();
    ensure!(listed == expected, "listed: {listed:?}, in byte order: {expected:?}");
    Ok(())
}

async fn are_listed_page_by_page(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let texts = (0..23).map(|i| format!("job/{}%{i}", if i % 2 == 0 { "a" } else { "é" }));
    let held = hold(&cx, &store, texts).await?;
    for size in [1, 5, 23, 24] {
        let mut names: Vec<LockName> = Vec::new();
        loop {
            let page = store.list(Space::Locks, names.last(), size).await?;
            ensure!(page.len() <= size, "a page of {size} has {} locks", page.len());
            if page.is_empty() {
                break;
            }
            names.extend(page.into_iter().map(|(name, _)| name));
            ensure!(names.len() <= held.len(), "the pages have more locks than are held");
        }
        ensure!(names.iter().eq(held.keys()), "pages of {size} give {names:?}");
    }
    let after = store.list(Space::Locks, Some(&name("job/b")), 100).await?;
    let expected = held.keys().filter(|held| held.as_str() > "job/b");
    ensure!(after.iter().map(|(name, _)| name).eq(expected), "after a name that is not held comes {after:?}");
    let none = store.list(Space::Locks, None, 0).await?;
    ensure!(none.is_empty(), "a page of none has {} locks", none.len());
    Ok(())
}

async fn of_free_locks_are_not_listed(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let held = hold(&cx, &store, owned(&["a", "b", "c"])).await?;
    cx.release_held(&store, &held[&name("b")]).await?;
    let listed: Vec<_> = store.list(Space::Locks, None, 10).await?.into_iter().map(|(name, _)| name).collect();
    ensure!(listed == ["a", "c"].map(name), "listed: {listed:?}");
    Ok(())
}
