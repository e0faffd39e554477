//! Compares the tables of codes in the documentation of the stores with the codes of the stores.
//!
//! That a store's answers have these codes and no others is a case of its conformance suite.

use std::collections::BTreeSet;

use leasehold::etcd::EtcdStore;
use leasehold::postgres::{AdvisoryStore, PostgresStore};
use leasehold::redis::RedisStore;
use leasehold::sqlite::SqliteStore;
use leasehold::zk::ZkStore;
use leasehold::{MemoryStore, Quorum, Severity};

const PAGES: [(&str, &str, &[&str]); 7] = [
    ("docs/operators.md", include_str!("../docs/operators.md"), MemoryStore::FINDING_CODES),
    ("docs/sqlite.md", include_str!("../docs/sqlite.md"), SqliteStore::FINDING_CODES),
    ("docs/redis.md", include_str!("../docs/redis.md"), RedisStore::FINDING_CODES),
    ("docs/postgres.md", include_str!("../docs/postgres.md"), PostgresStore::FINDING_CODES),
    ("docs/etcd.md", include_str!("../docs/etcd.md"), EtcdStore::FINDING_CODES),
    ("docs/zk.md", include_str!("../docs/zk.md"), ZkStore::FINDING_CODES),
    ("docs/redlock.md", include_str!("../docs/redlock.md"), Quorum::FINDING_CODES),
];

const HEADER: &str = "| code | severity | meaning | what to do |";

/// The cells of each row of the table of codes.
fn rows(page: &str) -> Vec<Vec<&str>> {
    let (_, table) = page.split_once(HEADER).expect("a table of codes");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

#[test]
fn each_store_has_a_table_of_its_codes_in_the_order_of_its_answer() {
    for (page, text, codes) in PAGES {
        let listed: Vec<_> = rows(text).iter().map(|row| row[0].trim_matches('`')).collect();
        assert_eq!(listed, codes, "{page}");
    }
    assert_eq!(AdvisoryStore::FINDING_CODES, PostgresStore::FINDING_CODES, "both are on one page");
}

#[test]
fn each_row_names_severities_and_a_meaning_and_what_to_do_if_it_can_be_bad() {
    let known = [Severity::Info, Severity::Warning, Severity::Error].map(|severity| severity.to_string());
    for (page, text, _) in PAGES {
        for row in rows(text) {
            let [code, severities, meaning, way] = row[..] else { panic!("{page}: {row:?} has not four cells") };
            let listed: Vec<_> = severities.split(", ").map(str::to_owned).collect();
            let ordered: Vec<_> = known.iter().filter(|severity| listed.contains(severity)).cloned().collect();
            assert_eq!(listed, ordered, "{page}: {code}");
            assert!(!meaning.is_empty(), "{page}: {code} has no meaning");
            assert!(!way.is_empty() || !listed.contains(&"error".to_owned()), "{page}: {code} says not what to do");
        }
    }
}

#[test]
fn a_code_is_listed_once_for_a_store() {
    for (page, _, codes) in PAGES {
        assert_eq!(codes.iter().collect::<BTreeSet<_>>().len(), codes.len(), "{page}");
    }
}
