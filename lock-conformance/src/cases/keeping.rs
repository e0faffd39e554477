//! The record that a member keeps for a quorum: a text beside its data, replaced by
//! compare-and-swap.

use std::sync::Arc;

use lock_core::{LockStore, RecordStore, StoredRecord, TokenRaiser};

use crate::case::cases;
use crate::context::Context;
use crate::ensure::{CaseResult, ensure};
use crate::factory::Failure;
use crate::requirement::Requirement;

cases! { "keeping";
    [Requirement::RecordStore] {
        keeps_a_text_for_every_handle,
        changes_nothing_if_another_came_first,
        says_yes_again_after_a_lost_reply,
        changes_nothing_after_a_new_realm_was_begun,
        lets_one_of_many_that_come_at_once_change_it,
    }
}

fn record_store(store: &Arc<dyn LockStore>) -> Result<&dyn RecordStore, Failure> {
    Ok(store
        .token_raiser()
        .and_then(TokenRaiser::record_store)
        .ok_or("one handle keeps a text, and another does not")?)
}

async fn read(store: &Arc<dyn LockStore>) -> Result<StoredRecord, Failure> {
    Ok(record_store(store)?.read_record().await?)
}

async fn replace(store: &Arc<dyn LockStore>, before: &StoredRecord, text: &str) -> Result<bool, Failure> {
    Ok(record_store(store)?.replace_record(before, text).await?)
}

/// A text with quotes, escapes, placeholders and characters outside the basic plane.
const AWKWARD_TEXT: &str = "{\"a\": [1, \"ä'\\\\ %s $1 \u{1f512}\"]}\n";

async fn keeps_a_text_for_every_handle(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let nothing = read(&a).await?;
    ensure!(nothing.text.is_none(), "it keeps {nothing:?} before anybody asked for it");
    ensure!(nothing.realm == a.realm(), "its data are of {}, and what it keeps is of {}", a.realm(), nothing.realm);
    ensure!(replace(&a, &nothing, AWKWARD_TEXT).await?, "nothing was kept, and still is");
    for store in [&a, &b, &cx.open().await?] {
        let now = read(store).await?;
        ensure!(now.text.as_deref() == Some(AWKWARD_TEXT) && now.realm == nothing.realm, "it keeps {now:?}");
    }
    let long = "x".repeat(8_000);
    ensure!(replace(&b, &read(&b).await?, &long).await?, "the text that it keeps was not changed");
    ensure!(read(&a).await?.text.as_ref() == Some(&long), "it keeps another text than the last");
    Ok(())
}

async fn changes_nothing_if_another_came_first(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let nothing = read(&a).await?;
    ensure!(replace(&a, &nothing, "first").await?, "nothing was kept, and still is");
    ensure!(!replace(&b, &nothing, "second").await?, "what another kept was changed by who did not know of it");
    let first = read(&b).await?;
    ensure!(replace(&a, &first, "third").await?, "the text that it keeps was not changed");
    ensure!(!replace(&b, &first, "fourth").await?, "what another kept was changed by who did not know of it");
    ensure!(read(&a).await?.text.as_deref() == Some("third"), "it keeps {:?}", read(&a).await?);
    Ok(())
}

async fn says_yes_again_after_a_lost_reply(cx: Context) -> CaseResult {
    let store = cx.open().await?;
    let nothing = read(&store).await?;
    for _ in 0..3 {
        ensure!(replace(&store, &nothing, "text").await?, "who asks again is told that another came first");
    }
    Ok(())
}

async fn changes_nothing_after_a_new_realm_was_begun(cx: Context) -> CaseResult {
    let (a, b) = (cx.open().await?, cx.open().await?);
    let nothing = read(&a).await?;
    let Ok(realm) = b.new_realm().await else { return Ok(()) };
    ensure!(!replace(&a, &nothing, "text").await?, "a text was kept with data of another realm");
    let now = read(&a).await?;
    ensure!(now.realm == realm, "it is of {realm}, and what it keeps of {}", now.realm);
    ensure!(replace(&a, &now, "text").await?, "nothing was kept, and still is");
    Ok(())
}

async fn lets_one_of_many_that_come_at_once_change_it(cx: Context) -> CaseResult {
    let nothing = read(&cx.open().await?).await?;
    let mut coming = Vec::new();
    for at in 0..8 {
        let (store, nothing) = (cx.open().await?, nothing.clone());
        coming.push(tokio::spawn(async move {
            let text = at.to_string();
            replace(&store, &nothing, &text).await.map(|kept| kept.then_some(text)).map_err(|error| error.to_string())
        }));
    }
    let mut kept_by = Vec::new();
    for came in coming {
        kept_by.extend(came.await??);
    }
    let now = read(&cx.open().await?).await?.text;
    ensure!(
        kept_by.len() == 1 && now.as_ref() == kept_by.first(),
        "{kept_by:?} say that they came first; it is {now:?}"
    );
    Ok(())
}
