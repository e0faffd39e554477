//! `leasehold break`: takes a lock away from its holder.

use std::process::ExitCode;
use std::time::Duration;

use leasehold::{BreakMode, Eviction, FencingToken, HeldBy, LockName};
use serde_json::json;

use crate::cli::Break;
use crate::failure::{Failure, status};
use crate::{output, store};

/// Takes a lock away from its holder, and prints what that means for the name.
pub(crate) async fn run(args: Break, url: Option<&str>) -> Result<ExitCode, Failure> {
    let name = store::name(&args.name)?;
    let locks = super::locks(url).await?;
    let nothing = |why: String| Err(Failure::new(status::NOTHING_DONE, why));
    let Some(seen) = locks.inspect(&name).await?.pop() else {
        return nothing(format!("\"{name}\" is free: there is nothing to break"));
    };
    if args.holder.is_some() && args.holder != seen.holder {
        return nothing(format!("\"{name}\" is held by another holder, {seen}: it was not broken"));
    }
    if seen.revoked && !args.now {
        let free_in = seen.remaining.map(|time| format!(" and becomes free in {}", output::format_duration(time)));
        return nothing(format!("\"{name}\" was revoked already{}", free_in.unwrap_or_default()));
    }
    let how = if args.now { BreakMode::Now } else { BreakMode::Revoke };
    let Some(broken) = locks.break_lock(&name, &seen, how).await? else {
        return nothing(describe_refusal(&name, &seen, locks.inspect(&name).await?.pop().as_ref()));
    };
    // The state is read again: a lock without an end is not freed by waiting.
    let after = locks.inspect(&name).await.ok().and_then(|mut holders| holders.pop());
    let text = match args.json {
        true => as_json(&name, &broken, after.as_ref()),
        false => as_text(&name, &broken, after.as_ref(), args.now),
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The result as JSON.
fn as_json(name: &LockName, broken: &Eviction, after: Option<&HeldBy>) -> String {
    let mut value = output::json_of(name, Some(&broken.evicted));
    value["held"] = json!(false);
    value["broken"] = json!(true);
    let endless = after.is_some_and(|by| by.revoked && by.remaining.is_none());
    let free_in = u64::try_from(broken.free_in.as_millis()).unwrap_or(u64::MAX);
    value["free_in_ms"] = json!((!endless).then_some(free_in));
    value["used_up_token"] = json!(broken.token.as_ref().map(FencingToken::number));
    value["used_up_realm"] = json!(broken.token.as_ref().map(|token| token.realm().as_str()));
    value.to_string()
}

/// The result for people.
fn as_text(name: &LockName, broken: &Eviction, after: Option<&HeldBy>, is_now: bool) -> String {
    let mut lines = vec![if broken.evicted.revoked {
        "it was revoked before: there was no holder to evict".to_owned()
    } else {
        format!("evicted {}", output::escape(&broken.evicted.to_string()))
    }];
    lines.push(describe_after(name, broken.free_in, after));
    if let Some(token) = &broken.token {
        lines.push(format!(
            "the token {} was used up: a fence raised to it refuses the evicted holder",
            output::escape(&token.to_string())
        ));
    }
    if is_now {
        let until =
            broken.evicted.remaining.map(|time| format!(", for {}", output::format_duration(time))).unwrap_or_default();
        lines.push(format!(
            "nothing excludes the evicted holder until its old lease would have ended{until}, except a fence"
        ));
    }
    lines.join("\n")
}

/// Describes why nothing was broken.
fn describe_refusal(name: &LockName, seen: &HeldBy, now: Option<&HeldBy>) -> String {
    match now {
        None => format!("\"{name}\" is free: {seen} had given it back before it could be broken"),
        Some(by) if by.holder == seen.holder => {
            format!("\"{name}\" is held by {by}, and was not broken: the store lets only its holder end that lease")
        }
        Some(by) => format!("\"{name}\" was no longer held by {seen}, but by {by}: it was not broken"),
    }
}

/// Describes when the name of a broken lock becomes free.
fn describe_after(name: &LockName, free_in: Duration, now: Option<&HeldBy>) -> String {
    let ends = |by: &HeldBy| match by.remaining {
        Some(time) => format!("becomes free in {}, when the old lease would have ended", output::format_duration(time)),
        None => "stays blocked, since the old lease has no end: `break --now` frees it".to_owned(),
    };
    match now {
        Some(by) if by.revoked => format!("\"{name}\" {}", ends(by)),
        Some(by) => format!("\"{name}\" is held by {} now", output::escape(&by.to_string())),
        None if free_in.is_zero() => format!("\"{name}\" is free now"),
        None => {
            format!(
                "\"{name}\" becomes free in {}, when the old lease would have ended",
                output::format_duration(free_in)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use leasehold::Holder;

    use super::*;

    fn held_by(number: u128) -> HeldBy {
        HeldBy::holder(Holder::from_u128(number))
    }

    #[test]
    fn what_is_said_after_breaking_is_what_is_so() {
        let name = LockName::new("demo").unwrap();
        let revoked = |remaining| {
            let mut by = held_by(1);
            (by.revoked, by.remaining) = (true, remaining);
            by
        };
        let seconds = Duration::from_secs;
        for (free_in, now, says) in [
            (Duration::ZERO, None, "is free now"),
            (seconds(5), Some(revoked(Some(seconds(4)))), "becomes free in 4s"),
            (seconds(5), None, "becomes free in 5s"),
            (Duration::ZERO, Some(revoked(None)), "stays blocked, since the old lease has no end"),
            (Duration::ZERO, Some(held_by(2)), "is held by holder 00000000000000000000000000000002 now"),
        ] {
            let text = describe_after(&name, free_in, now.as_ref());
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn a_lock_that_was_not_broken_is_told_as_it_is() {
        let name = LockName::new("demo").unwrap();
        for (now, says) in [
            (None, "is free"),
            (Some(held_by(1)), "the store lets only its holder end that lease"),
            (Some(held_by(2)), "was no longer held by holder 00000000000000000000000000000001, but by holder"),
        ] {
            let text = describe_refusal(&name, &held_by(1), now.as_ref());
            assert!(text.contains(says), "{text}");
        }
    }
}
