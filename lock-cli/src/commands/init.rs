//! `leasehold init`: makes what a store needs before it can be used.

use std::time::Duration;

use leasehold::{Effect, StoreUrl};

use crate::cli::Init;
use crate::failure::Failure;
use crate::{output, store};

/// Time limit for the server.
const INIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes what the store at `option`, or at the URL of its own, needs; or prints the statements that
/// make it.
pub(crate) async fn run(args: Init, option: Option<&str>) -> Result<(), Failure> {
    let url: StoreUrl = store::url(args.url.as_deref().or(option))?.parse()?;
    let registry = leasehold::registry();
    let Some(script) = registry.init_script(&url)? else {
        // Nothing is printed: what is read as statements must be statements.
        output::print_notice(&format!("{url} needs nothing: opening it is enough"));
        return Ok(());
    };
    if args.print {
        return output::print(script.trim_end());
    }
    let late = |_| leasehold::Error::no_answer(&url, INIT_TIMEOUT, Effect::None);
    tokio::time::timeout(INIT_TIMEOUT, registry.init(&url)).await.map_err(late)??;
    Ok(())
}
