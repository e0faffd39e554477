//! Searches the model of places in full: what stops a search is a counterexample, or that there is
//! nothing more to see.

use std::time::Instant;

use quorum_model::places::{Model, Rule};
use stateright::{Checker, HasDiscoveries, Model as _};

const PLACES: &str = "no realm has more places than members";
const ONE: &str = "one realm is opened while nobody loses anything";
const JOINS: &str = "a member joins";
const OPENS: &str = "a quorum is opened";

/// Three members that are new; one of them may miss the forming.
const NEW: Model =
    Model { rule: Rule::Sound, members: 3, founders: 0, sees: 3, tries: &[2, 1], losses: 0, lasting: true };
/// Five members, of which two missed the forming.
const FORMED: Model = Model { members: 5, founders: 3, tries: &[1, 1], losses: 1, ..NEW };

/// What a search found; it ends at the first thing that must not be.
fn search(what: &str, model: Model) -> Vec<&'static str> {
    let started = Instant::now();
    let wrong = HasDiscoveries::AnyOf([PLACES, ONE].into());
    let checker = model.checker().threads(2).finish_when(wrong).spawn_bfs().join();
    println!(
        "{what}: {} states ({} steps, depth {}) in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    checker.discoveries().into_keys().collect()
}

/// The rule holds in a search that has seen something.
fn holds(what: &str, model: Model) {
    let mut found = search(what, model);
    found.sort_unstable();
    assert_eq!(found, [JOINS, OPENS], "{what}");
}

#[test]
fn two_clients_that_see_different_members_form_one_quorum_and_the_third_joins() {
    holds("forming", NEW);
}

#[test]
fn no_place_is_given_twice_when_members_lose_their_data_and_the_quorum_is_formed_anew() {
    holds("forming anew", Model { losses: 1, lasting: false, ..NEW });
}

#[test]
fn five_places_stay_five_when_two_members_missed_the_forming_and_one_loses_its_data() {
    holds("joining", FORMED);
}

#[test]
fn rules_of_joining_that_look_right_are_found_wrong() {
    for rule in Rule::WRONG_OF_JOINING {
        // It takes two newcomers at once, beside one that comes again, to be too many.
        let sees = if matches!(rule, Rule::JoinsUnasked | Rule::PlacesAreGivenAgain) { 4 } else { FORMED.sees };
        let found = search(&format!("{rule:?}"), Model { rule, sees, ..FORMED });
        assert!(found.contains(&PLACES), "{rule:?} was not found wrong");
    }
}

#[test]
fn rules_of_forming_that_look_right_are_found_wrong() {
    for rule in Rule::WRONG_OF_FORMING {
        let found = search(&format!("{rule:?}"), Model { rule, ..NEW });
        assert!(found.contains(&ONE), "{rule:?} was not found wrong");
    }
}
