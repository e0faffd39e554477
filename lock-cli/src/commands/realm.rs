//! `leasehold realm`: shows the realm of the store's tokens, or begins a new one.

use serde_json::json;

use crate::cli::Realm;
use crate::failure::Failure;
use crate::output;

/// Shows the realm of the store's tokens; with `--new`, begins a new one first.
pub(crate) async fn run(args: Realm, store: Option<&str>) -> Result<(), Failure> {
    let locks = super::locks(store).await?;
    let before = locks.realm();
    let realm = if args.new { locks.new_realm().await? } else { before.clone() };
    if args.json {
        let before = args.new.then(|| before.as_str().to_owned());
        return output::print(&json!({ "realm": realm.as_str(), "before": before }).to_string());
    }
    output::print(&output::escape(realm.as_str()))?;
    if args.new {
        output::print_notice(&format!("the realm was {before}; fences refuse the new one until it is adopted"));
    }
    Ok(())
}
