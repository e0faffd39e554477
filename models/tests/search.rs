//! Searches the model, as far as a minute goes.

use quorum_model::{Model, Rule};
use stateright::{Checker, HasDiscoveries, Model as _};

const TOKENS: &str = "tokens are unique and rise";
const TWO: &str = "two believe that they hold";

/// Two clients that acquire twice each.
const TWO_CLIENTS: Model = Model {
    rule: Rule::Sound,
    clients: 2,
    attempts: 1,
    copies: 2,
    asks_again: false,
    losses: 0,
    bumps: 0,
    greatest: 4,
};

fn report(what: &str, model: Model) {
    let started = std::time::Instant::now();
    let checker = model.checker().threads(2).timeout(std::time::Duration::from_secs(25)).spawn_bfs().join();
    println!(
        "{what}: {} unique of {} states, depth {}, {:.1?}: {:?}",
        checker.unique_state_count(),
        checker.state_count(),
        checker.max_depth(),
        started.elapsed(),
        checker.discoveries().into_iter().map(|(k, p)| (k, p.into_actions())).collect::<Vec<_>>()
    );
}

#[test]
fn look() {
    report("2x1 one copy", Model { copies: 1, ..TWO_CLIENTS });
    report("2x1", TWO_CLIENTS);
    for rule in Rule::WRONG {
        report(&format!("{rule:?}"), Model { rule, clients: 3, copies: 1, ..TWO_CLIENTS });
    }
    let _ = HasDiscoveries::AnyFailures;
    let _ = (TOKENS, TWO);
}
