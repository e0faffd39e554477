//! What a store needs before it can be used.

use crate::place::Place;

#[test]
fn a_store_that_needs_nothing_is_told_so_and_prints_no_statement() {
    let place = Place::new();
    for args in [vec!["init"], vec!["init", "--print"], vec!["init", "memory:"]] {
        let said = place.say(&args);
        assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
        assert!(said.err.contains("needs nothing"), "{said:?}");
    }
    assert_eq!(place.say(&["init", "nowhere:"]).code, Some(78));
}

#[cfg(feature = "postgres")]
#[test]
fn the_tables_of_postgresql_are_made_once_and_then_it_can_be_used() {
    let place = Place::new();
    let server = lock_testkit::PostgresServer::start(&[]);
    let url = format!("{}?table=locks.lease", server.url());
    let run = |place: &Place| place.say(&["run", "--store", &url, "--try", "demo", "--", "echo", "held"]);
    let refused = run(&place);
    assert_eq!(refused.code, Some(78), "{refused:?}");
    assert!(refused.err.contains("leasehold init"), "{refused:?}");
    let printed = place.say(&["init", "--print", &url]);
    assert!(printed.out.contains("create table if not exists \"locks\".\"lease\""), "{printed:?}");
    assert_eq!(run(&place).code, Some(78), "printing makes nothing");
    for _ in 0..2 {
        let made = place.say(&["init", &url]);
        assert_eq!((made.code, made.out.as_str(), made.err.as_str()), (Some(0), "", ""));
    }
    let held = run(&place);
    assert_eq!((held.code, held.out.as_str()), (Some(0), "held\n"), "{held:?}");
    // The printed statements do the same, also where that was done.
    server.psql(&printed.out);
    assert_eq!(run(&place).code, Some(0));
}

#[cfg(feature = "postgres")]
#[test]
fn old_rows_are_removed_when_an_operator_asks_for_it() {
    let place = Place::new();
    let server = lock_testkit::PostgresServer::start(&[]);
    let url = server.url();
    assert_eq!(place.say(&["init", &url]).code, Some(0));
    server.psql(
        "insert into leasehold (name, token, since, expires_at)
         select 'old ' || n, 1, now(), now() - interval '2 days' from generate_series(1, 3000) n",
    );
    let nothing = place.say(&["prune", &url]);
    assert_eq!((nothing.code, nothing.out.as_str()), (Some(0), "0 rows removed\n"), "{nothing:?}");
    let removed = place.say(&["--store", &url, "prune", "--idle", "1d"]);
    assert_eq!((removed.code, removed.out.as_str()), (Some(0), "3000 rows removed\n"), "{removed:?}");
    assert_eq!(server.psql("select count(*) from leasehold"), "0");
}

#[test]
fn a_store_that_keeps_nothing_of_old_names_has_nothing_removed() {
    let place = Place::new();
    let said = place.say(&["prune"]);
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{said:?}");
    assert!(said.err.contains("keeps nothing"), "{said:?}");
    assert_eq!(place.say(&["prune", "nowhere:"]).code, Some(78));
}
