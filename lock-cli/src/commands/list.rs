//! `leasehold list`: lists the locks that are held.

use serde_json::Value;

use crate::cli::List;
use crate::failure::Failure;
use crate::output;

/// Number of locks in one request.
const PAGE_SIZE: usize = 500;

/// Lists the locks that are held, in the byte order of their names.
pub(crate) async fn run(args: List, store: Option<&str>) -> Result<(), Failure> {
    let locks = super::locks(store).await?;
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = locks.list(after.as_ref(), PAGE_SIZE).await?;
        let last = page.len() < PAGE_SIZE;
        after = page.last().map(|(name, _)| name.clone());
        let holders = page.iter().flat_map(|(name, holders)| holders.iter().map(move |by| (name, by)));
        if args.json {
            all.extend(holders.map(|(name, by)| output::json_of(name, Some(by))));
        } else {
            for (name, by) in holders {
                output::print(&format!("{}\t{}", output::escape(name.as_str()), output::escape(&by.to_string())))?;
            }
        }
        if last {
            break;
        }
    }
    if args.json { output::print(&Value::Array(all).to_string()) } else { Ok(()) }
}
