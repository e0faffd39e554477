//! The guarantees that servers give with their settings.

use lock_core::{ClockKind, Expiry, Fault, Faults, Guarantees, WaitStyle};

use crate::server_info::ServerInfo;

/// The guarantees of one server that syncs every write before it answers and has no replica that
/// could take over. An expiry is a moment of its wall clock, so that a step of that clock ends or
/// prolongs a lease; a counter is not affected.
pub(crate) const BEST_GUARANTEES: Guarantees = guarantees_with(
    Faults::of(&[Fault::Crash, Fault::PowerLoss]),
    Faults::of(&[Fault::Crash, Fault::PowerLoss, Fault::FailOver, Fault::ClockStep, Fault::Pause]),
);

const fn guarantees_with(records: Faults, tokens: Faults) -> Guarantees {
    Guarantees::NONE
        .records_survive(records)
        .tokens_survive(tokens)
        .expiry(Expiry::Ttl(ClockKind::Wall))
        .waiting(WaitStyle::Notified)
}

/// The guarantees of all these servers together. With `may_fail_over` they count as having
/// replicas, whatever they report.
pub(crate) fn guarantees(servers: &[ServerInfo], may_fail_over: bool) -> Guarantees {
    let (mut records, mut tokens) =
        (BEST_GUARANTEES.records_survive, BEST_GUARANTEES.tokens_survive.unwrap_or_default());
    if may_fail_over {
        tokens = tokens - Fault::FailOver.into();
    }
    if servers.is_empty() {
        (records, tokens) = (Faults::NONE, Faults::NONE);
    }
    for server in servers {
        let durable = server.durability();
        records = records - (Faults::ALL - durable);
        // A clock step and a pause do not touch the data in memory.
        tokens = tokens - (Faults::of(&[Fault::Crash, Fault::PowerLoss]) - durable);
        if server.replicas != Some(0) || server.has_had_replicas || server.is_replica {
            tokens = tokens - Fault::FailOver.into();
        }
        match server.evicts() {
            Some(false) => {}
            // Counters have no expiry, so that only some policies reach them; locks have one.
            _ => {
                records = Faults::NONE;
                if server.setting("maxmemory-policy").is_none_or(|policy| !policy.starts_with("volatile")) {
                    tokens = Faults::NONE;
                }
            }
        }
    }
    guarantees_with(records, tokens)
}

#[cfg(test)]
mod tests {
    use redis::Value;

    use super::*;
    use crate::server_info::tests::server;

    fn tokens(servers: &[ServerInfo]) -> Faults {
        guarantees(servers, false).tokens_survive.unwrap()
    }

    /// The codes of what an operator should look at.
    fn codes(server: &ServerInfo) -> Vec<&'static str> {
        server.warnings(0).map(|finding| finding.code).collect()
    }

    fn is_for_correctness(servers: &[ServerInfo]) -> bool {
        guarantees(servers, false).shortfalls(&Guarantees::FOR_CORRECTNESS).is_empty()
    }

    #[test]
    fn only_one_server_that_syncs_every_write_is_for_correctness() {
        let best = server("always", Some(0), "noeviction");
        assert_eq!(guarantees(std::slice::from_ref(&best), false), BEST_GUARANTEES);
        assert!(is_for_correctness(std::slice::from_ref(&best)) && codes(&best).is_empty());
        for weaker in [
            server("everysec", Some(0), "noeviction"),
            server("no", Some(0), "noeviction"),
            server("", Some(0), "noeviction"),
            server("always", Some(1), "noeviction"),
            server("always", None, "noeviction"),
            server("always", Some(0), "allkeys-lru"),
        ] {
            assert!(!is_for_correctness(std::slice::from_ref(&weaker)), "{weaker:?}");
            assert!(!codes(&weaker).is_empty(), "{weaker:?}");
            assert!(!is_for_correctness(&[best.clone(), weaker]));
        }
        assert!(guarantees(std::slice::from_ref(&best), true).shortfalls(&Guarantees::FOR_CORRECTNESS).len() == 1);
    }

    #[test]
    fn what_a_server_does_not_say_it_does_not_promise() {
        let silent = ServerInfo { name: "s".to_owned(), ..ServerInfo::default() };
        assert_eq!(guarantees(&[], false).records_survive, Faults::NONE);
        assert_eq!(guarantees(std::slice::from_ref(&silent), false).records_survive, Faults::NONE);
        assert_eq!(tokens(std::slice::from_ref(&silent)), Faults::NONE);
        assert_eq!(codes(&silent), ["role", "maxmemory-policy", "persistence", "replicas"]);
    }

    #[test]
    fn what_replicas_leave_behind_is_known() {
        let none = "role:master\r\nconnected_slaves:0\r\nmaster_replid2:0000000000000000000000000000000000000000\r\nmaster_repl_offset:0\r\nsecond_repl_offset:-1\r\nrepl_backlog_active:0\r\n";
        let server = |version: &str, replication: &str| {
            let said = format!("redis_version:{version}\r\n{replication}");
            let said = ServerInfo::parse("s", vec![Value::BulkString(said.into_bytes())]);
            ServerInfo { settings: crate::server_info::tests::server("always", Some(0), "noeviction").settings, ..said }
        };
        assert!(is_for_correctness(&[server("7.0.15", none)]));
        // From 7.2 on it counts what was never sent, too.
        assert!(is_for_correctness(&[server("7.2.4", &none.replace("repl_offset:0", "repl_offset:9"))]));
        for left in [
            none.replace("active:0", "active:1"),
            none.replace("replid2:0", "replid2:a"),
            none.replace("repl_offset:0", "repl_offset:9"),
        ] {
            let server = server("7.0.15", &left);
            assert!(!is_for_correctness(std::slice::from_ref(&server)), "{left}");
            assert_eq!(codes(&server), ["replicas"]);
        }
    }

    #[test]
    fn a_sync_every_second_survives_no_crash_and_none_at_all_does() {
        assert_eq!(guarantees(&[server("everysec", Some(0), "noeviction")], false).records_survive, Faults::NONE);
        assert_eq!(guarantees(&[server("no", Some(0), "noeviction")], false).records_survive, Fault::Crash.into());
    }

    #[test]
    fn eviction_of_keys_with_an_expiry_spares_the_counters() {
        let evicting = guarantees(&[server("always", Some(0), "volatile-lru")], false);
        assert_eq!(evicting.records_survive, Faults::NONE);
        assert_eq!(evicting.tokens_survive, BEST_GUARANTEES.tokens_survive);
    }
}
