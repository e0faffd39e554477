//! The table in `docs/semantics.md`.

use libtest_mimic::Failed;

#[derive(Clone)]
pub(crate) struct Table {
    stores: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn read() -> Table {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/semantics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut rows = text
            .lines()
            .skip_while(|line| !line.starts_with("| # |"))
            .take_while(|line| line.starts_with('|'))
            .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
        let stores = rows.next().expect("a table that begins with | # |").split_off(2);
        Table { stores, rows: rows.skip(1).collect() }
    }

    pub(crate) fn cell(&self, number: u32, store: &str) -> Option<String> {
        let column = self.stores.iter().position(|name| name == store)?;
        let row = self.rows.iter().find(|row| row[0] == number.to_string())?;
        row.get(column + 2).cloned()
    }

    pub(crate) fn has_only(
        &self,
        numbers: impl Iterator<Item = u32>,
        stores: impl Iterator<Item = &'static str>,
    ) -> Result<(), Failed> {
        let run: Vec<_> = numbers.map(|number| number.to_string()).collect();
        let listed: Vec<_> = self.rows.iter().map(|row| row[0].clone()).collect();
        let stores: Vec<_> = stores.collect();
        if run == listed && stores == self.stores {
            return Ok(());
        }
        Err(format!("run are {run:?} on {stores:?}, and the table has {listed:?} on {:?}", self.stores).into())
    }
}
