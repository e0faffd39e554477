//! What a quorum promises, and whose tokens it gives.

use std::sync::Arc;

use crate::{ClockKind, Error, ErrorKind, Expiry, Fault, Faults, Guarantees, LockStore, Realm, Result, WaitStyle};

/// What a quorum of these members promises.
///
/// It is what *every* member promises: a fault may come to all of them. And it is the loss of a minority, where there is
/// one to lose. The model of the fence finds equal tokens as soon as one member in three forgets its counter, so that a
/// majority of members that keep theirs is not enough.
pub(super) fn of(members: &[Arc<dyn LockStore>]) -> Result<Guarantees> {
    let refused = |text: String| Err(Error::refused(ErrorKind::InvalidConfig, text));
    if members.is_empty() {
        return refused("a quorum needs members".to_owned());
    }
    let mut realms: Vec<_> = members.iter().map(|member| member.realm()).collect();
    realms.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    if let Some(twice) = realms.windows(2).find(|two| two[0] == two[1]) {
        return refused(format!("two members of the quorum are the same store: {}", twice[0]));
    }
    let minority = if members.len() >= 3 { Fault::MinorityLoss.into() } else { Faults::NONE };
    let (mut records, mut tokens, mut clock) = (Faults::ALL, Some(Faults::ALL), ClockKind::BootTime);
    for (at, member) in members.iter().enumerate() {
        let promised = member.guarantees();
        let Some(Expiry::Ttl(theirs)) = promised.expiry else {
            return refused(format!(
                "member {} of the quorum cannot vote: its leases must each have a TTL of their own, and they end with \
                 a session or a connection, which the quorum cannot count from its own request",
                at + 1
            ));
        };
        clock = weaker(clock, theirs);
        records = common(records, promised.records_survive);
        let theirs = promised.tokens_survive.filter(|_| member.raises().is_some());
        tokens = tokens.zip(theirs).map(|(all, theirs)| common(all, theirs));
    }
    let promised =
        Guarantees::NONE.records_survive(records | minority).expiry(Expiry::Ttl(clock)).waiting(WaitStyle::Polled);
    Ok(match tokens {
        None => promised,
        Some(tokens) => promised.tokens_survive(tokens | minority),
    })
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

/// The realm of a quorum whose members have these, in whatever order.
pub(super) fn realm(members: impl Iterator<Item = Realm>) -> Realm {
    let mut realms: Vec<_> = members.collect();
    realms.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    // FNV-1a in 128 bits: it keeps chance away, and nobody gains by another realm's name. A byte that no text has ends
    // each, so that no two lists run into one.
    let bytes = realms.iter().flat_map(|realm| realm.as_str().bytes().chain([0xff]));
    let hash = bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    });
    Realm::new(format!("quorum:{hash:032x}"))
}
