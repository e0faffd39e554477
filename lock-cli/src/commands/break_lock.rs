//! `leasehold break`: takes a lock away from its holder.

use std::process::ExitCode;
use std::time::Duration;

use leasehold::{Break as How, FencingToken};
use serde_json::json;

use crate::cli::Break;
use crate::failure::{Failure, status};
use crate::{output, store};

/// Takes a lock away from the holder that has it, and says what that leaves open.
pub(crate) async fn run(args: Break, url: Option<&str>) -> Result<ExitCode, Failure> {
    let name = store::name(&args.name)?;
    let locks = super::locks(url).await?;
    let nothing = |why: String| Err(Failure::new(status::NOTHING_DONE, why));
    let Some(seen) = locks.inspect(&name).await? else {
        return nothing(format!("\"{name}\" is free: there is nothing to break"));
    };
    if args.holder.is_some() && args.holder != seen.holder {
        return nothing(format!("\"{name}\" is held by another holder, {seen}: it was not broken"));
    }
    if seen.revoked && !args.now {
        let free_in = seen.remaining.map(|time| format!(" and becomes free in {}", output::time(time)));
        return nothing(format!("\"{name}\" was revoked already{}", free_in.unwrap_or_default()));
    }
    let how = if args.now { How::Now } else { How::Revoke };
    let Some(broken) = locks.break_lock(&name, &seen, how).await? else {
        return nothing(format!("\"{name}\" was no longer held by {seen}: it was not broken"));
    };
    if args.json {
        let mut value = output::json_of(&name, Some(&broken.evicted));
        value["held"] = json!(false);
        value["broken"] = json!(true);
        value["free_in_ms"] = json!(u64::try_from(broken.free_in.as_millis()).unwrap_or(u64::MAX));
        value["used_up_token"] = json!(broken.token.as_ref().map(FencingToken::number));
        value["used_up_realm"] = json!(broken.token.as_ref().map(|token| token.realm().as_str()));
        output::print(&value.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut lines = vec![if broken.evicted.revoked {
        "it was revoked before: there was no holder to evict".to_owned()
    } else {
        format!("evicted {}", output::shown(&broken.evicted.to_string()))
    }];
    lines.push(match broken.free_in {
        Duration::ZERO => format!("\"{name}\" is free now"),
        time => format!("\"{name}\" becomes free in {}, when the old lease would have ended", output::time(time)),
    });
    if let Some(token) = &broken.token {
        lines.push(format!(
            "the token {} was used up: a fence raised to it refuses the evicted holder",
            output::shown(&token.to_string())
        ));
    }
    if args.now {
        let until = broken.evicted.remaining.map(|time| format!(", for {}", output::time(time))).unwrap_or_default();
        lines.push(format!(
            "nothing excludes the evicted holder until its old lease would have ended{until}, except a fence"
        ));
    }
    output::print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}
