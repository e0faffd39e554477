//! `leasehold status`: shows who holds a lock.

use crate::cli::Status;
use crate::failure::Failure;
use crate::{output, store};

/// Shows who holds a lock. The exit status is 0 in both cases: the answer may be out of date when
/// it is read, so that a script which acts on it is wrong; `run --try` is the way to act.
pub(crate) async fn run(args: Status, url: Option<&str>) -> Result<(), Failure> {
    let name = store::name(&args.name)?;
    let by = super::locks(url).await?.inspect(&name).await?.pop();
    if args.json {
        return output::print(&output::json_of(&name, by.as_ref()).to_string());
    }
    let Some(mut by) = by else { return output::print("free") };
    let revoked = std::mem::take(&mut by.revoked);
    let mut lines = vec![if revoked {
        format!("revoked: nobody holds it, and nobody can yet; it was held by {}", output::escape(&by.to_string()))
    } else {
        format!("held by {}", output::escape(&by.to_string()))
    }];
    if let Some(holder) = by.holder {
        lines.push(format!("holder     {holder}"));
    }
    if let Some(token) = &by.token {
        lines.push(format!("token      {}", output::escape(&token.to_string())));
    }
    if let Some(remaining) = by.remaining {
        let unless = if revoked { "" } else { " unless it is renewed" };
        lines.push(format!("ends in    {}{unless}", output::format_duration(remaining)));
    }
    output::print(&lines.join("\n"))
}
