//! `leasehold list`: lists the locks that are held.

use serde_json::Value;

use crate::cli::List;
use crate::failure::Failure;
use crate::output;

/// How many locks are asked for at once.
const PAGE: usize = 500;

/// Lists the locks that are held, in the byte order of their names.
pub(crate) async fn run(args: List, store: Option<&str>) -> Result<(), Failure> {
    let locks = super::locks(store).await?;
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = locks.list(after.as_ref(), PAGE).await?;
        let last = page.len() < PAGE;
        after = page.last().map(|(name, _)| name.clone());
        if args.json {
            all.extend(page.iter().map(|(name, by)| output::json_of(name, Some(by))));
        } else {
            for (name, by) in &page {
                output::print(&format!("{}\t{}", output::shown(name.as_str()), output::shown(&by.to_string())))?;
            }
        }
        if last {
            break;
        }
    }
    if args.json { output::print(&Value::Array(all).to_string()) } else { Ok(()) }
}
