//! P7: the diagnosis of a store by its operators.

use std::collections::BTreeSet;

use lock_core::{Finding, Severity};

use crate::case::cases;
use crate::context::{Context, name};
use crate::ensure::{CaseResult, ensure};

cases! { "diagnosis";
    [] {
        of_a_healthy_store_finds_no_error,
        says_what_it_looked_at_also_if_it_is_as_it_should_be,
        has_each_code_once_for_each_subject,
        has_codes_in_kebab_case_and_texts_of_one_line,
        changes_no_lock,
    }
}

async fn of_a_healthy_store_finds_no_error(cx: Context) -> CaseResult {
    let findings = cx.open().await?.diagnose().await?;
    let error = findings.iter().find(|finding| finding.severity == Severity::Error);
    ensure!(error.is_none(), "a healthy store has the finding: {}", error.map(ToString::to_string).unwrap_or_default());
    Ok(())
}

async fn says_what_it_looked_at_also_if_it_is_as_it_should_be(cx: Context) -> CaseResult {
    let findings = cx.open().await?.diagnose().await?;
    ensure!(!findings.is_empty(), "an answer without a finding does not say what was looked at");
    if !cx.finding_codes.is_empty() {
        let found: BTreeSet<_> = findings.iter().map(|finding| finding.code).collect();
        let listed: BTreeSet<_> = cx.finding_codes.iter().copied().collect();
        ensure!(found == listed, "the codes are {found:?}, and the documentation lists {listed:?}");
    }
    Ok(())
}

async fn has_each_code_once_for_each_subject(cx: Context) -> CaseResult {
    let findings = cx.open().await?.diagnose().await?;
    let mut seen = BTreeSet::new();
    let repeated = findings.iter().find(|finding| !seen.insert((finding.code, finding.subject.as_deref())));
    ensure!(repeated.is_none(), "a code comes twice for one subject: {findings:?}");
    Ok(())
}

async fn has_codes_in_kebab_case_and_texts_of_one_line(cx: Context) -> CaseResult {
    for Finding { code, subject, text, .. } in cx.open().await?.diagnose().await? {
        let is_word = |word: &str| {
            !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        ensure!(code.split('-').all(is_word), "the code {code:?} is not in kebab case");
        let subject = subject.unwrap_or_else(|| "none".to_owned());
        for part in [&text, &subject] {
            ensure!(!part.trim().is_empty(), "the finding {code} says nothing");
            ensure!(!part.contains(['\n', '\r']), "the finding {code} is not one line: {part:?}");
        }
    }
    Ok(())
}

async fn changes_no_lock(cx: Context) -> CaseResult {
    let (store, other) = (cx.open().await?, cx.open().await?);
    let (held, free) = (cx.claim(&name("held")), name("free"));
    cx.expect_granted(&store, &held).await?;
    for handle in [&store, &other] {
        handle.diagnose().await?;
    }
    cx.expect_holder(&other, &held).await?;
    cx.expect_held(&other, &cx.claim(held.name())).await?;
    cx.expect_free(&other, &free).await?;
    cx.release_held(&store, &held).await
}
