//! Compares the tables of `docs/conformance.md` with the code: the groups and their cases, and the
//! flaws of the mutants.
//!
//! A table that differs fails the test, which prints the table that the code has.

#[allow(dead_code, reason = "only the table of the flaws is read here")]
#[path = "mutants/flaw.rs"]
mod flaw;
#[allow(dead_code, reason = "only the table of the flaws is read here")]
#[path = "mutants/session_flaw.rs"]
mod session_flaw;

use std::fmt::Debug;

use lock_conformance::Suite;

use self::flaw::FLAWS;
use self::session_flaw::SESSION_FLAWS;

const PAGE: &str = include_str!("../../docs/conformance.md");

/// The rows of the table below this header, without the line of dashes.
fn rows(header: &str) -> Vec<&'static str> {
    let (_, table) = PAGE.split_once(header).unwrap_or_else(|| panic!("the page has no table {header}"));
    table.lines().skip(2).take_while(|line| line.starts_with('|')).collect()
}

fn cells(row: &str) -> Vec<&str> {
    row.trim_matches('|').split('|').map(str::trim).collect()
}

/// `KeepsHalfTheTtl` as `Keeps half the ttl`.
fn sentence(flaw: &dyn Debug) -> String {
    let mut sentence = String::new();
    for letter in format!("{flaw:?}").chars() {
        match letter.is_uppercase() && !sentence.is_empty() {
            true => sentence.extend([' ', letter.to_ascii_lowercase()]),
            false => sentence.push(letter),
        }
    }
    sentence
}

fn flaw_rows<F: Debug>(flaws: &[(&str, F, &str)]) -> Vec<String> {
    flaws.iter().map(|(promise, flaw, case)| format!("| {promise} | {} | `{case}` |", sentence(flaw))).collect()
}

#[track_caller]
fn assert_table(header: &str, expected: &[String]) {
    assert!(rows(header) == expected, "the table {header} should be:\n{}", expected.join("\n"));
}

fn groups() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for name in Suite::case_names() {
        let (group, case) = name.split_once("::").expect("a name is group::sentence");
        match groups.last_mut().filter(|(last, _)| *last == group) {
            Some((_, cases)) => cases.push(case),
            None => groups.push((group, vec![case])),
        }
    }
    groups
}

#[test]
fn the_table_of_groups_has_every_group_with_its_number_of_cases() {
    let listed: Vec<_> = rows("| group | cases | proves |").into_iter().map(cells).collect();
    let listed: Vec<_> = listed.iter().map(|row| (row[0].to_owned(), row[1].to_owned())).collect();
    let expected: Vec<_> =
        groups().into_iter().map(|(group, cases)| (format!("`{group}`"), cases.len().to_string())).collect();
    assert_eq!(listed, expected);
}

#[test]
fn the_list_of_cases_is_complete() {
    let expected: Vec<_> = groups()
        .into_iter()
        .map(|(group, cases)| {
            let cases: Vec<_> = cases.into_iter().map(|case| format!("`{case}`")).collect();
            format!("| `{group}` | {} |", cases.join("<br>"))
        })
        .collect();
    assert_table("| group | its cases |", &expected);
}

#[test]
fn the_page_counts_the_cases() {
    let count = format!("{} cases", Suite::case_names().count());
    assert!(PAGE.contains(&count), "the page should say: {count}");
}

#[test]
fn the_tables_of_mutants_have_every_flaw() {
    assert_table("| promise | flaw | found by |", &flaw_rows(FLAWS));
    assert_table("| promise | flaw of a session | found by |", &flaw_rows(SESSION_FLAWS));
}

#[test]
fn the_page_counts_the_mutants() {
    let count =
        format!("in {} ways, and one whose sessions carry the leases in {} more", FLAWS.len(), SESSION_FLAWS.len());
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(page.contains(&count), "the page should say: {count}");
}

#[test]
fn every_flaw_is_found_by_a_case_that_exists() {
    let finders = FLAWS.iter().map(|(.., case)| case).chain(SESSION_FLAWS.iter().map(|(.., case)| case));
    for finder in finders {
        assert!(Suite::case_names().any(|case| case == *finder), "{finder} is no case");
    }
}
