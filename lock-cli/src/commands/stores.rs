//! `leasehold stores`: shows what each kind of store guarantees.

use leasehold::{Guarantees, StoreKind};
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
    let mut rows = vec![
        ["STORE", "RECORDS SURVIVE", "TOKENS SURVIVE", "LEASE ENDS BY", "WAITERS", "CORRECTNESS"].map(str::to_owned),
    ];
    let mut notes = Vec::new();
    for kind in registry.kinds() {
        rows.push(row(&kind));
        let provided = if kind.provided.is_empty() { String::new() } else { format!(" (at best: {})", kind.provided) };
        notes.push(format!("{}: for example {}{provided}", kind.schemes[0], kind.example));
    }
    for missing in registry.missing() {
        notes.push(format!("{}: not compiled in, it needs the feature `{}`", missing.schemes[0], missing.feature));
    }
    output::print(&format!("{}\n\n{}", table(&rows), notes.join("\n")))
}

fn row(kind: &StoreKind) -> [String; 6] {
    let promises = &kind.at_best;
    [
        kind.schemes.join(", "),
        promises.records_survive.to_string(),
        promises.tokens_survive.map_or_else(|| "no tokens".to_owned(), |faults| faults.to_string()),
        promises.expiry.map_or_else(|| "–".to_owned(), |expiry| expiry.to_string()),
        promises.waiting.to_string(),
        if is_for_correctness(promises) { "yes" } else { "no" }.to_owned(),
    ]
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
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
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
        let rows = [["a", "bb"], ["ccc", "–"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a    bb\nccc  –");
    }
}
