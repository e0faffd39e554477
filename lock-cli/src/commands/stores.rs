//! `leasehold stores`: shows what each kind of store guarantees.

use leasehold::{Expiry, Fault, Guarantees, StoreKind};
use serde_json::{Value, json};

use crate::cli::Stores;
use crate::failure::Failure;
use crate::output;

/// Shows the guarantees of every kind of store that was compiled in, and the names of the others.
pub(crate) fn run(args: Stores) -> Result<(), Failure> {
    let registry = leasehold::registry();
    if args.json {
        let there = registry.kinds().map(|kind| json_of(&kind));
        let missing = registry
            .missing()
            .iter()
            .map(|missing| json!({ "schemes": missing.schemes, "compiled_in": false, "feature": missing.feature }));
        return output::print(&Value::Array(there.chain(missing).collect()).to_string());
    }
    let kinds: Vec<_> = registry.kinds().collect();
    let mut notes = vec!["both: records and tokens".to_owned()];
    for kind in &kinds {
        let provided = if kind.provided.is_empty() { String::new() } else { format!(" (at best: {})", kind.provided) };
        notes.push(format!("{}: for example {}{provided}", kind.schemes.join(", "), kind.example));
    }
    for missing in registry.missing() {
        notes.push(format!("{}: not compiled in, it needs the feature `{}`", missing.schemes[0], missing.feature));
    }
    output::print(&format!("{}\n\n{}", table(&rows(&kinds)), notes.join("\n")))
}

/// A column for each kind of store, so that the table stays narrow however many there are.
fn rows(kinds: &[StoreKind]) -> Vec<Vec<String>> {
    let row = |what: &str, cell: &dyn Fn(&Guarantees) -> String| {
        std::iter::once(what.to_owned()).chain(kinds.iter().map(|kind| cell(&kind.at_best))).collect::<Vec<_>>()
    };
    let names = kinds.iter().map(|kind| kind.schemes[0].to_uppercase());
    let mut rows = vec![std::iter::once("SURVIVES".to_owned()).chain(names).collect()];
    rows.extend(Fault::ALL.map(|fault| row(&fault.to_string(), &|promises| survives(promises, fault).to_owned())));
    rows.push(row("lease ends by", &|promises| ends_by(promises.expiry)));
    rows.push(row("by the clock", &|promises| clock(promises.expiry)));
    rows.push(row("waiters", &|promises| promises.waiting.to_string()));
    let purpose = |promises: &Guarantees| if is_for_correctness(promises) { "yes" } else { "no" }.to_owned();
    rows.push(row("for correctness", &purpose));
    rows
}

fn survives(promises: &Guarantees, fault: Fault) -> &'static str {
    let tokens = promises.tokens_survive.is_some_and(|faults| faults.contains(fault.into()));
    match (promises.records_survive.contains(fault.into()), tokens) {
        (true, true) => "both",
        (true, false) => "records",
        (false, true) => "tokens",
        (false, false) => "–",
    }
}

fn ends_by(expiry: Option<Expiry>) -> String {
    match expiry {
        Some(Expiry::Ttl(_)) => "TTL".to_owned(),
        Some(Expiry::Session(_)) => "session".to_owned(),
        Some(other) => other.to_string(),
        None => "–".to_owned(),
    }
}

fn clock(expiry: Option<Expiry>) -> String {
    match expiry {
        Some(Expiry::Ttl(clock) | Expiry::Session(clock)) => clock.to_string(),
        _ => "–".to_owned(),
    }
}

fn is_for_correctness(promises: &Guarantees) -> bool {
    promises.shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty()
}

fn json_of(kind: &StoreKind) -> Value {
    json!({
        "schemes": kind.schemes,
        "compiled_in": true,
        "example": kind.example,
        "at_best": kind.at_best,
        "provided": kind.provided,
        "for_correctness": is_for_correctness(&kind.at_best),
    })
}

/// Columns as wide as their widest cell.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..rows.first().map_or(0, Vec::len)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bb"], ["ccc", "–"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "a    bb\nccc  –");
    }
}
