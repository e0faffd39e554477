//! [`Row`]: the row of one name.

use std::time::Duration;

use lock_core::{Error, FencingToken, HeldBy, Holder, HolderInfo, Realm};

use crate::error::corrupt;

/// The row of one name, validated.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// The last token that was granted or used up.
    pub(crate) token: i64,
    /// The lease, if there is one that has not ended.
    pub(crate) held: Option<LiveLease>,
}

/// A lease that has not ended.
#[derive(Clone, Debug)]
pub(crate) struct LiveLease {
    pub(crate) holder: Holder,
    pub(crate) expires_at: i64,
    pub(crate) since: i64,
    pub(crate) info: Option<HolderInfo>,
    pub(crate) revoked: bool,
}

/// The current boot and the reading of its clock, which decide whether a lease has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BootClock<'a> {
    pub(crate) boot: &'a str,
    pub(crate) nanos: i64,
}

impl Row {
    /// Reads `token, holder, boot, expires_at, since, info, revoked`, the columns from `at` on.
    pub(crate) fn read(row: &rusqlite::Row<'_>, at: usize, now: BootClock<'_>) -> rusqlite::Result<Result<Row, Error>> {
        let token: i64 = row.get(at)?;
        let holder: Option<Vec<u8>> = row.get(at + 1)?;
        let boot: Option<String> = row.get(at + 2)?;
        let times: (Option<i64>, Option<i64>) = (row.get(at + 3)?, row.get(at + 4)?);
        let info: Option<String> = row.get(at + 5)?;
        let revoked: bool = row.get(at + 6)?;
        if token < 1 {
            return Ok(Err(corrupt("a token below 1")));
        }
        let Some(holder) = holder else { return Ok(Ok(Row { token, held: None })) };
        let Ok(holder) = <[u8; 16]>::try_from(holder) else {
            return Ok(Err(corrupt("a holder that has not 16 bytes")));
        };
        let (Some(boot), (Some(expires_at), Some(since))) = (boot, times) else {
            return Ok(Err(corrupt("a holder without its times")));
        };
        if expires_at < 0 || since < 0 {
            return Ok(Err(corrupt("a time below 0")));
        }
        // A holder of an earlier boot died with that boot.
        let held = (boot == now.boot && expires_at > now.nanos).then(|| LiveLease {
            holder: Holder::from_u128(u128::from_be_bytes(holder)),
            expires_at,
            since,
            // It is for people and decides nothing: one that cannot be parsed is left out.
            info: info.and_then(|info| serde_json::from_str(&info).ok()),
            revoked,
        });
        Ok(Ok(Row { token, held }))
    }

    pub(crate) fn is_held_by(&self, holder: Holder) -> bool {
        self.held.as_ref().is_some_and(|held| held.holder == holder)
    }

    /// The token after this one.
    pub(crate) fn next_token(&self) -> Result<i64, Error> {
        self.token.checked_add(1).ok_or_else(|| corrupt("a token that no other can follow"))
    }
}

impl LiveLease {
    /// The holder, for people.
    pub(crate) fn held_by(&self, token: i64, realm: &Realm, now: i64) -> HeldBy {
        let mut by = HeldBy::holder(self.holder);
        by.info = self.info.clone();
        by.token = Some(FencingToken::new(realm.clone(), token.unsigned_abs()));
        by.held_for = Some(elapsed(self.since, now));
        by.remaining = Some(self.remaining(now));
        by.revoked = self.revoked;
        by
    }

    pub(crate) fn remaining(&self, now: i64) -> Duration {
        elapsed(now, self.expires_at)
    }
}

/// The time from one reading of the boot-time clock to another; zero if it is later.
fn elapsed(from: i64, to: i64) -> Duration {
    Duration::from_nanos(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// The reading of the boot-time clock that comes `time` after `now`.
pub(crate) fn deadline_after(now: i64, time: Duration) -> i64 {
    now.saturating_add(i64::try_from(time.as_nanos()).unwrap_or(i64::MAX))
}
