//! Searches the model in full: what stops a search is a counterexample, or that there is nothing
//! more to see.

use std::time::Instant;

use quorum_model::{Model, Rule};
use stateright::{Checker, HasDiscoveries, Model as _};

const TOKENS: &str = "tokens are unique and rise";
const TWO: &str = "two believe that they hold";

/// Two clients; each request of the first can arrive twice, and at any time. No counter can pass
/// the bound, since no more grants than nine can happen, and each goes one beyond the greatest
/// counter at most.
const TWO_CLIENTS: Model = Model {
    rule: Rule::Sound,
    clients: 2,
    attempts: 1,
    copies: 2,
    asks_again: false,
    losses: 0,
    bumps: 0,
    greatest: 9,
};

/// Three clients whose requests arrive once. This bound hides a quarter of the states, which take
/// another half a minute; without it nothing else is found in them.
const THREE_CLIENTS: Model = Model { clients: 3, copies: 1, greatest: 4, ..TWO_CLIENTS };

/// What a search found of the two properties; it ends at the first token that is wrong.
fn search(what: &str, model: Model) -> (bool, bool) {
    let started = Instant::now();
    let wrong = HasDiscoveries::AllOf([TOKENS].into());
    let checker = model.checker().threads(2).finish_when(wrong).spawn_bfs().join();
    println!(
        "{what}: {} states ({} steps, depth {}) in {:.1?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed()
    );
    let found = checker.discoveries();
    (found.contains_key(TOKENS), found.contains_key(TWO))
}

/// The rule holds, although two believe that they hold: a search that cannot see that sees nothing.
fn holds(what: &str, model: Model) {
    let (wrong, two) = search(what, model);
    assert!(!wrong, "{what}: two tokens are equal, or one did not rise");
    assert!(two, "{what}: no two believed that they held, so that this search cannot fail");
}

#[test]
fn tokens_of_two_clients_rise_although_requests_are_repeated_and_late() {
    holds("two clients", TWO_CLIENTS);
}

#[test]
fn tokens_of_three_clients_rise() {
    holds("three clients", THREE_CLIENTS);
}

#[test]
fn tokens_rise_when_a_holder_asks_again() {
    holds("asking again", Model { copies: 1, asks_again: true, ..TWO_CLIENTS });
}

#[test]
fn tokens_rise_when_other_names_share_the_counters() {
    holds("shared counters", Model { copies: 1, bumps: 2, ..TWO_CLIENTS });
}

#[test]
fn rules_that_look_right_are_found_wrong() {
    for rule in Rule::WRONG {
        // This one needs a request that arrives twice; three clients alone do not show it.
        let model = if rule == Rule::GreaterCountsAcknowledge { TWO_CLIENTS } else { THREE_CLIENTS };
        let (wrong, _) = search(&format!("{rule:?}"), Model { rule, ..model });
        assert!(wrong, "{rule:?} was not found wrong");
    }
}

#[test]
fn one_member_that_loses_its_data_makes_tokens_equal() {
    let (wrong, _) = search("a loss", Model { copies: 1, losses: 1, ..TWO_CLIENTS });
    assert!(wrong, "a member lost its counter, and the tokens rose all the same");
}
