//! The diagnosis of a [`ZkStore`]: its servers, its ensemble and its data.

use std::time::Duration;

use futures_util::future::{join, join_all, join3};
use lock_core::{Effect, Error, ErrorKind, Finding, Guarantees, Realm, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use zookeeper_client::Error as ZkError;

use crate::acl::is_open;
use crate::connect::count_voters;
use crate::error::classify;
use crate::opener::MAX_SESSION_TTL;
use crate::store::ZkStore;

/// Pause before a question is asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum number of bytes of an answer that are read.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

impl ZkStore {
    /// The codes of its findings. Every answer has each of them; the page of the store says what
    /// they mean.
    pub const FINDING_CODES: &'static [&'static str] =
        &["server", "version", "quorum", "longest-ttl", "access", "guarantees", "realm", "tick", "shortest-ttl"];

    /// The findings about every server, as it answers the four-letter word `srvr`, and about the
    /// ensemble.
    ///
    /// # Errors
    ///
    /// The error of the ensemble, if no server answers either.
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        let servers = join_all(self.opener.config().servers.iter().map(|server| self.server_findings(server)));
        let (servers, ensemble) = join(servers, self.ensemble_findings()).await;
        let answers = servers.iter().any(Result::is_ok);
        let mut findings: Vec<_> =
            servers.into_iter().flat_map(|found| found.unwrap_or_else(|silent| vec![silent])).collect();
        match ensemble {
            Ok(found) => findings.extend(found),
            Err(error) if !answers => return Err(error),
            Err(error) => {
                let text = format!("no lock can be acquired or renewed: {error}");
                findings.push(Finding::error("quorum", text));
            }
        }
        findings.extend([
            Finding::info("tick", format!("{:?}", self.factory.tick())),
            Finding::info("shortest-ttl", format!("{:?}; shorter ones are raised to it", self.factory.min_ttl())),
        ]);
        Ok(findings)
    }

    /// The findings about one server; `Err` if it does not answer.
    async fn server_findings(&self, server: &str) -> Result<Vec<Finding>, Finding> {
        if self.opener.config().tls.is_some() {
            let text = "not asked: the four-letter word srvr is sent without TLS only";
            return Ok(["server", "version"].map(|code| Finding::info(code, text).about(server)).into());
        }
        let unanswered = |why: String| Finding::warning("server", format!("it does not answer: {why}")).about(server);
        match tokio::time::timeout(self.question_timeout(), srvr(server)).await {
            Err(_) => Err(unanswered(format!("nothing came within {:?}", self.question_timeout()))),
            Ok(Err(error)) => Err(unanswered(error.to_string())),
            Ok(Ok(text)) => Ok(status_findings(&text).into_iter().map(|finding| finding.about(server)).collect()),
        }
    }

    async fn ensemble_findings(&self) -> Result<[Finding; 5]> {
        let voters = self.limited(|| self.read(|client| async move { count_voters(&client).await }));
        let now = self.limited(|| {
            let opener = self.opener.clone();
            self.read(move |client| {
                let opener = opener.clone();
                async move { opener.realm_node().read(&client).await }
            })
        });
        let longest = self.limited(|| async { Ok(self.opener.open(MAX_SESSION_TTL).await?.ttl) });
        let (access, (voters, now, longest)) =
            join(self.limited(|| self.access_finding()), join3(voters, now, longest)).await;
        let voters = voters?;
        let quorum = format!("{voters} servers vote, and {} must answer", voters / 2 + 1);
        Ok([
            Finding::info("quorum", quorum),
            match longest {
                Ok(ttl) => Finding::info("longest-ttl", format!("{ttl:?}; longer ones are lowered to it")),
                Err(error) => Finding::error("longest-ttl", format!("no session is opened, and so no lock: {error}")),
            },
            access?,
            Finding::guarantees(&Guarantees::of_consensus(self.voters), &Guarantees::of_consensus(voters)),
            realm_finding(&self.opener.realm_node().realm(), now),
        ])
    }

    async fn access_finding(&self) -> Result<Finding> {
        let base = self.layout.base().to_owned();
        let acl = self.read(move |client| {
            let base = base.clone();
            async move {
                match client.get_acl(&base).await {
                    Err(ZkError::NoNode | ZkError::NoAuth) => Ok(Vec::new()),
                    acl => {
                        acl.map(|(acl, _)| acl).map_err(|failure| classify("reading who may do what", failure, false))
                    }
                }
            }
        });
        Ok(match acl.await?.iter().any(is_open) {
            true => {
                let text = "anybody who reaches the servers may delete the locks: log in, and close the nodes above \
                            them to others";
                Finding::warning("access", text)
            }
            false => Finding::info("access", "only this user may delete the locks"),
        })
    }

    /// Time limit of one question. It is below the time limit for opening a session, so that one
    /// server that is silent does not cost the answers of the others.
    fn question_timeout(&self) -> Duration {
        self.opener.config().connect_timeout * 4 / 5
    }

    /// The answer to a question that changes nothing. It is asked again while the connection is
    /// lost: a server that has just died says nothing of the ensemble.
    async fn limited<T, F>(&self, question: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let limit = self.question_timeout();
        let mut lost = None;
        let answer = async {
            loop {
                match question().await {
                    Err(error) if error.kind() == ErrorKind::Unavailable => lost = Some(error),
                    answer => return answer,
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        };
        match tokio::time::timeout(limit, answer).await {
            Ok(answer) => answer,
            Err(_) => Err(lost.unwrap_or_else(|| Error::no_answer("the ensemble", limit, Effect::None))),
        }
    }
}

fn realm_finding(known: &Realm, now: Result<Option<Realm>>) -> Finding {
    match now {
        Ok(Some(now)) if now == *known => Finding::info("realm", known.to_string()),
        Ok(now) => {
            let now = now.map_or_else(|| "of no realm".to_owned(), |now| format!("of realm {now}"));
            Finding::error("realm", format!("the data is {now}, and this process knows {known}: connect again"))
        }
        Err(error) => Finding::error("realm", format!("it cannot be read: {error}")),
    }
}

/// The findings in an answer to `srvr`.
fn status_findings(answer: &str) -> [Finding; 2] {
    let field = |key: &str| answer.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let Some(version) = field("Zookeeper version:") else {
        let said = answer.lines().next().unwrap_or("an empty answer");
        let unknown = Finding::info("version", "not known, since it does not answer the four-letter word srvr");
        // A server that has lost its quorum.
        let server = match said.contains("not currently serving") {
            true => Finding::warning("server", format!("it serves nobody: {said}")),
            false => Finding::info("server", format!("it answers, and does not tell its state: {said}")),
        };
        return [server, unknown];
    };
    let version = version.split([',', '-']).next().unwrap_or(version);
    let mode = field("Mode:").unwrap_or("in an unknown mode");
    let connections = field("Connections:").unwrap_or("an unknown number of");
    let server = format!("it answers, as {mode}, with {connections} connections");
    [Finding::info("server", server), Finding::info("version", version)]
}

async fn srvr(server: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(server).await?;
    stream.write_all(b"srvr").await?;
    let mut text = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use lock_core::Severity;

    use super::*;

    #[test]
    fn the_state_of_a_server_is_read_from_its_answer() {
        let answer = "Zookeeper version: 3.8.0-5a02, built on 2022\nConnections: 3\nMode: follower\n";
        let [server, version] = status_findings(answer);
        assert_eq!((&*version.text, server.severity), ("3.8.0", Severity::Info));
        assert_eq!(server.text, "it answers, as follower, with 3 connections");
    }

    #[test]
    fn a_server_that_may_not_answer_is_no_fault_and_one_that_serves_nobody_is() {
        for (answer, severity) in [
            ("srvr is not executed because it is not in the whitelist.\n", Severity::Info),
            ("This ZooKeeper instance is not currently serving requests\n", Severity::Warning),
        ] {
            let [server, version] = status_findings(answer);
            assert_eq!((server.severity, version.severity), (severity, Severity::Info), "{answer}");
        }
    }
}
