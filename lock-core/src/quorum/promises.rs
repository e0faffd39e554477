//! The guarantees of a quorum, and the realm of its tokens.

use crate::contract::LockStore;
use crate::words::{ClockKind, Error, ErrorKind, Expiry, Fault, Faults, Guarantees, Realm, Result, WaitStyle};

/// The guarantees of a quorum of `members` members, of which those in `present` are up.
///
/// They are the guarantees that *every* member has, since a fault may affect all of them, and the
/// loss of a minority, where there is one. The model of the fence finds equal tokens as soon as one
/// member in three forgets its counter, so a majority of members that keep theirs is not enough.
pub(super) fn of(present: &[(usize, &dyn LockStore)], members: usize) -> Result<Guarantees> {
    let minority = if members >= 3 { Fault::MinorityLoss.into() } else { Faults::NONE };
    let (mut records, mut tokens, mut clock) = (Faults::ALL, Some(Faults::ALL), ClockKind::BootTime);
    for (at, member) in present {
        let promised = member.guarantees();
        clock = weaker(clock, ends(*at, &promised)?);
        records = common(records, promised.records_survive);
        tokens = tokens.zip(tokens_of(*member)).map(|(all, theirs)| common(all, theirs));
    }
    let promised =
        Guarantees::NONE.records_survive(records | minority).expiry(Expiry::Ttl(clock)).waiting(WaitStyle::Polled);
    Ok(match tokens {
        None => promised,
        Some(tokens) => promised.tokens_survive(tokens | minority),
    })
}

/// Checks that a member promises as much as the quorum, whose guarantees were computed when it was
/// opened without this member.
pub(super) fn suffice(at: usize, member: &dyn LockStore, quorum: &Guarantees) -> Result<()> {
    let promised = member.guarantees();
    let minority = Faults::from(Fault::MinorityLoss);
    let clock = ends(at, &promised)?;
    let has_clock = matches!(quorum.expiry, Some(Expiry::Ttl(least)) if weaker(least, clock) == least);
    let keeps_records = promised.records_survive.contains(quorum.records_survive - minority);
    let keeps_tokens = quorum
        .tokens_survive
        .is_none_or(|least| tokens_of(member).is_some_and(|tokens| tokens.contains(least - minority)));
    if has_clock && keeps_records && keeps_tokens {
        return Ok(());
    }
    let text = "it has no vote here, since it promises less than those by which this quorum was opened";
    Err(Error::refused(ErrorKind::TooWeak, text))
}

/// The clock by which the leases of a member end.
fn ends(at: usize, promised: &Guarantees) -> Result<ClockKind> {
    match promised.expiry {
        Some(Expiry::Ttl(clock)) => Ok(clock),
        _ => Err(Error::invalid_config(format!(
            "member {} of the quorum cannot vote: its leases must each have a TTL of their own, and they end with a \
                 session or a connection, which the quorum cannot count from its own request",
            at + 1
        ))),
    }
}

/// Faults that the tokens of a member survive, if it can raise them.
fn tokens_of(member: &dyn LockStore) -> Option<Faults> {
    member.guarantees().tokens_survive.filter(|_| member.token_raiser().is_some())
}

fn common(a: Faults, b: Faults) -> Faults {
    a - (Faults::ALL - b)
}

fn weaker(a: ClockKind, b: ClockKind) -> ClockKind {
    match (a, b) {
        (ClockKind::Wall, _) | (_, ClockKind::Wall) => ClockKind::Wall,
        (ClockKind::Monotonic, _) | (_, ClockKind::Monotonic) => ClockKind::Monotonic,
        (ClockKind::BootTime, ClockKind::BootTime) => ClockKind::BootTime,
    }
}

/// The realm of a quorum whose members keep no roll and have these realms, in any order.
pub(super) fn realm(members: impl Iterator<Item = Realm>) -> Realm {
    let mut realms: Vec<_> = members.collect();
    realms.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    // FNV-1a in 128 bits: it prevents collisions by chance, and nobody gains by forging a realm. A
    // byte that occurs in no UTF-8 text ends each realm, so that two different lists never have the
    // same bytes.
    let bytes = realms.iter().flat_map(|realm| realm.as_str().bytes().chain([0xff]));
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    Realm::new(format!("quorum:{hash:032x}"))
}
