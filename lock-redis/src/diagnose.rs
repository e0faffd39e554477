//! The diagnosis of a [`RedisStore`]: the state and the settings of its servers, read anew.

use futures_util::future::{join, join_all};
use lock_core::{Error, Fault, Finding, Result, Severity};

use crate::guarantees::guarantees;
use crate::server_info::{ServerInfo, is_older_than};
use crate::store::RedisStore;
use crate::tokens::realm_from_id;

impl RedisStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] =
        &["server", "version", "role", "maxmemory-policy", "persistence", "replicas", "guarantees", "realm"];

    /// The findings about every server, and about all of them.
    ///
    /// # Errors
    ///
    /// The error of the first server, if none answers.
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        let nodes = self.connections()?.router.all().await?;
        let answers = join_all(nodes.iter().map(|node| async move {
            let info = node.server_info().await;
            info.map_err(|failure| (node.name(), node.error("looking at the server", failure)))
        }));
        let (answers, realm) = join(answers, self.realm_finding()).await;
        let (mut servers, mut silent) = (Vec::new(), Vec::new());
        for answer in answers {
            match answer {
                Ok(server) => servers.push(server),
                Err(failed) => silent.push(failed),
            }
        }
        if let Some((_, error)) = silent.first().filter(|_| servers.is_empty()) {
            return Err(error.clone());
        }
        let unanswered = |(name, error): &(&str, Error)| {
            let text = format!("it does not answer, so that the locks of its slots cannot be acquired: {error}");
            Finding::error("server", text).about(*name)
        };
        let mut findings: Vec<_> = silent.iter().map(unanswered).collect();
        findings.extend(servers.iter().flat_map(|server| server.findings(self.config.wait)));
        let now = guarantees(&servers, self.config.topology.may_fail_over());
        findings.extend([Finding::guarantees(&self.guarantees, &now), realm]);
        Ok(findings)
    }

    async fn realm_finding(&self) -> Finding {
        let known = self.tokens.realm();
        match self.read_realm(false).await.map(|id| realm_from_id(&id)) {
            Ok(now) if now == known => Finding::info("realm", known.to_string()),
            Ok(now) => {
                let text = format!(
                    "the data is of realm {now}, and this process knows {known}: it was lost or replaced, or a new \
                     realm was begun; its tokens do not compare with earlier ones"
                );
                Finding::error("realm", text)
            }
            Err(error) => Finding::error("realm", format!("it cannot be read: {error}")),
        }
    }
}

impl ServerInfo {
    /// The findings about this server, where `wait` replicas must acknowledge a grant.
    pub(crate) fn findings(&self, wait: u32) -> Vec<Finding> {
        let findings = [
            self.server_finding(),
            self.version_finding(),
            self.role_finding(),
            self.eviction_finding(),
            self.persistence_finding(),
            self.replicas_finding(wait),
        ];
        findings.map(|finding| finding.about(&self.name)).into()
    }

    /// The findings to warn of.
    pub(crate) fn warnings(&self, wait: u32) -> impl Iterator<Item = Finding> {
        self.findings(wait).into_iter().filter(|finding| finding.severity > Severity::Info)
    }

    fn server_finding(&self) -> Finding {
        let uptime = self.uptime.map_or_else(String::new, |uptime| format!(", up for {uptime:?}"));
        let mode = self.mode.as_deref().map_or_else(String::new, |mode| format!(", in mode {mode}"));
        Finding::info("server", format!("it answers{uptime}{mode}"))
    }

    fn version_finding(&self) -> Finding {
        match self.version.as_deref() {
            None => Finding::info("version", "not known, since this user may not ask for INFO"),
            Some(version) if is_older_than(version, 7, 0) => {
                Finding::warning("version", format!("{version} is older than 7.0, on which this store was tried"))
            }
            Some(version) => Finding::info("version", version),
        }
    }

    fn role_finding(&self) -> Finding {
        match self.replicas {
            None => Finding::warning("role", "not known, since this user may not ask for INFO"),
            Some(_) if self.is_replica => {
                Finding::error("role", "it is a replica now, and may not write: give the address of its master")
            }
            Some(_) => Finding::info("role", "master"),
        }
    }

    fn eviction_finding(&self) -> Finding {
        const CODE: &str = "maxmemory-policy";
        match self.setting(CODE) {
            None => Finding::warning(CODE, not_known("taken to evict locks that are held")),
            Some("noeviction") => Finding::info(CODE, "noeviction"),
            Some(policy) => {
                let text = format!("{policy} may throw away locks that are held; set it to noeviction");
                Finding::warning(CODE, text)
            }
        }
    }

    fn persistence_finding(&self) -> Finding {
        const CODE: &str = "persistence";
        let Some(appendonly) = self.setting("appendonly") else {
            return Finding::warning(CODE, not_known("taken to keep nothing"));
        };
        let [fsync, rewrite] =
            ["appendfsync", "no-appendfsync-on-rewrite"].map(|name| self.setting(name).unwrap_or("unknown"));
        let seen = format!("appendonly {appendonly}, appendfsync {fsync}, no-appendfsync-on-rewrite {rewrite}");
        let durable = self.durability();
        if durable.contains(Fault::PowerLoss.into()) {
            return Finding::info(CODE, seen);
        }
        let survives = if durable.is_empty() { "a crash or a power loss" } else { "a power loss" };
        let text = format!(
            "{seen}: locks and tokens that were given may not survive {survives}; for that it needs appendonly yes, \
             appendfsync always and no-appendfsync-on-rewrite no"
        );
        Finding::warning(CODE, text)
    }

    fn replicas_finding(&self, wait: u32) -> Finding {
        const CODE: &str = "replicas";
        match self.replicas {
            None => Finding::warning(CODE, "not known, since this user may not ask for INFO: taken to have some"),
            Some(replicas) if replicas < wait => {
                let text =
                    format!("{replicas} are connected, and wait={wait} must acknowledge: no lock can be acquired");
                Finding::error(CODE, text)
            }
            Some(0) if self.has_had_replicas && !self.is_replica => {
                let text = "there were some, which are away now: a fail-over to one that is behind forgets locks and \
                            tokens; if there will be none, restart the server";
                Finding::warning(CODE, text)
            }
            Some(0) => Finding::info(CODE, "none, so that none can take over"),
            Some(replicas) if wait == 0 => {
                let text = format!(
                    "{replicas} are connected, and a fail-over to one that lags forgets locks and tokens; wait=N \
                     makes that less likely and not impossible"
                );
                Finding::warning(CODE, text)
            }
            Some(replicas) => Finding::info(CODE, format!("{replicas} are connected, and {wait} must acknowledge")),
        }
    }
}

fn not_known(taken: &str) -> String {
    format!("not known, since this user may not ask for CONFIG GET: {taken}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server_info::tests::server;

    #[test]
    fn every_fact_is_found_whatever_is_known_of_it() {
        let silent = ServerInfo { name: "s".to_owned(), ..ServerInfo::default() };
        for server in [server("always", Some(0), "noeviction"), server("", Some(2), "allkeys-lru"), silent] {
            let codes: Vec<_> = server.findings(0).iter().map(|finding| finding.code).collect();
            assert_eq!(codes, RedisStore::FINDING_CODES[..codes.len()], "{server:?}");
        }
    }

    #[test]
    fn replicas_that_wait_asks_for_and_that_are_missing_are_an_error() {
        let server = server("always", Some(1), "noeviction");
        let severity = |wait| server.replicas_finding(wait).severity;
        assert_eq!([severity(0), severity(1), severity(2)], [Severity::Warning, Severity::Info, Severity::Error]);
    }

    #[test]
    fn a_master_that_was_demoted_is_an_error() {
        let demoted = ServerInfo { is_replica: true, ..server("always", Some(0), "noeviction") };
        let warnings: Vec<_> = demoted.warnings(0).map(|finding| (finding.severity, finding.code)).collect();
        assert_eq!(warnings, [(Severity::Error, "role")]);
    }
}
