//! `leasehold prune`: removes what a store keeps of names that nobody locks any more.

use leasehold::StoreUrl;

use crate::cli::Prune;
use crate::failure::Failure;
use crate::{output, store};

/// Removes what the store at `option`, or at the URL of its own, keeps of old names, and says how
/// much that was.
pub(crate) async fn run(args: Prune, option: Option<&str>) -> Result<(), Failure> {
    let url: StoreUrl = store::url(args.url.as_deref().or(option))?.parse()?;
    #[cfg(feature = "postgres")]
    if ["postgres", "postgresql"].contains(&url.scheme()) {
        use leasehold::postgres::{PostgresConfig, PostgresStore};
        let config = PostgresConfig::from_url(&url)?;
        let after = Some(config.prune_after).filter(|after| !after.is_zero());
        let idle = args.idle.or(after).unwrap_or(PostgresConfig::DEFAULT_PRUNE_AFTER);
        let removed = PostgresStore::connect(config).await?.prune(idle).await?;
        return output::print(&format!("{removed} rows removed"));
    }
    // A store that there is not is refused.
    leasehold::registry().init_script(&url)?;
    output::print_notice(&format!("{url} keeps nothing that needs to be removed"));
    Ok(())
}
