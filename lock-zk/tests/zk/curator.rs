//! Interoperation: Curator's `InterProcessMutex` and this store exclude each other, in one queue,
//! and tokens rise over both.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc;

use lock_testkit::{Process, WAIT_TIMEOUT};
use tempfile::TempDir;

use crate::fixture::{client, locks, nodes, secs, shared_server, start_waiting, unique_name, until, within_bound};

/// Debian's jars of Curator, and of its dependencies.
const JARS: [&str; 7] =
    ["curator-recipes", "curator-framework", "curator-client", "zookeeper", "zookeeper-jute", "guava", "slf4j-nop"];

/// A program that contends with Curator's mutex.
struct Curator {
    process: Process,
    lines: mpsc::Receiver<String>,
    _folder: TempDir,
}

impl Curator {
    fn start() -> Curator {
        let folder = tempfile::tempdir().unwrap();
        let jars: Vec<_> = JARS.iter().map(|jar| format!("/usr/share/java/{jar}.jar")).collect();
        let path = format!("{}:{}", folder.path().display(), jars.join(":"));
        let mut javac = Command::new("javac");
        javac.args(["-cp", &path, "-d"]).arg(folder.path());
        javac.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zk/Contender.java"));
        let output = javac.output().expect("javac is installed; ./test.sh installs what the tests need");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut java = Command::new("java");
        java.args(["-XX:TieredStopAtLevel=1", "-cp", &path, "Contender", &shared_server().endpoints()[0]]);
        let mut process = Process::start(java.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let stdout = process.child().stdout.take().unwrap();
        let (line, lines) = mpsc::channel();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| line.send(l)));
        let curator = Curator { process, lines, _folder: folder };
        assert_eq!(curator.read_line(), "ready");
        curator
    }

    fn send(&mut self, line: &str) {
        self.process.child().stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn read_line(&self) -> String {
        self.lines.recv_timeout(WAIT_TIMEOUT * 2).expect("Curator says something")
    }

    /// Waits until Curator holds the lock; gives the transaction that made its node.
    fn wait_until_held(&self, id: &str) -> u64 {
        let line = self.read_line();
        let czxid = line.strip_prefix(&format!("held {id} ")).unwrap_or_else(|| panic!("{id}: {line}"));
        czxid.parse().unwrap()
    }

    fn is_quiet(&self) -> bool {
        self.lines.try_recv().is_err()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curator_waits_for_ours_and_ours_for_curator_in_the_order_of_their_coming() {
    let (zookeeper, name) = (shared_server(), unique_name("fifo"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(60)).await, client(zookeeper).await);
    let mut curator = Curator::start();
    let wait_for_entries = async |count: usize| {
        until("a place", || async { nodes(&client, name.as_str()).await.len() == count }).await;
    };
    let first = locks.lock(&name).acquire().await.unwrap();
    curator.send(&format!("acquire a /app/{name}"));
    wait_for_entries(2).await;
    let third = start_waiting(&locks, &name).await;
    wait_for_entries(3).await;
    curator.send(&format!("acquire b /app/{name}"));
    wait_for_entries(4).await;
    assert!(curator.is_quiet(), "Curator holds what we hold");

    let mut tokens = vec![first.token_if_any().unwrap().number()];
    first.release().await.unwrap();
    tokens.push(curator.wait_until_held("a"));
    assert!(!third.is_finished(), "we hold what Curator holds");
    let by = locks.inspect(&name).await.unwrap().pop().unwrap();
    assert_eq!(by.holder, None, "another program holds it: {by:?}");
    assert_eq!(by.token.unwrap().number(), tokens[1]);
    assert!(locks.lock(&name).try_acquire().await.unwrap().is_none());

    curator.send("release a");
    assert_eq!(curator.read_line(), "released a");
    let third = within_bound("our turn", third).await.unwrap().unwrap();
    tokens.push(third.token_if_any().unwrap().number());
    assert!(curator.is_quiet(), "Curator holds what we hold");
    third.release().await.unwrap();
    tokens.push(curator.wait_until_held("b"));
    curator.send("release b");
    assert_eq!(curator.read_line(), "released b");
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    assert!(nodes(&client, name.as_str()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_two_hundred_holders_of_both_kinds_rise_strictly() {
    let (zookeeper, name) = (shared_server(), unique_name("mixed"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens");
    let locks = locks(zookeeper.endpoints(), secs(60)).await;
    let mut curator = Curator::start();
    curator.send(&format!("cycles 20 5 /app/{name} {}", file.display()));
    let mut ours = Vec::new();
    for _ in 0..5 {
        let (locks, name, file) = (locks.clone(), name.clone(), file.clone());
        ours.push(tokio::spawn(async move {
            for _ in 0..20 {
                let guard = locks.lock(&name).acquire().await.unwrap();
                let mut tokens = std::fs::File::options().create(true).append(true).open(&file).unwrap();
                writeln!(tokens, "{}", guard.token_if_any().unwrap().number()).unwrap();
                guard.release().await.unwrap();
            }
        }));
    }
    for task in ours {
        within_bound("our cycles", task).await.unwrap();
    }
    assert_eq!(curator.read_line(), "done");
    let text = std::fs::read_to_string(&file).unwrap();
    let tokens: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(tokens.len(), 200);
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_another_program_can_be_broken_and_no_other() {
    let (zookeeper, name) = (shared_server(), unique_name("foreign"));
    let locks = locks(zookeeper.endpoints(), secs(60)).await;
    let mut curator = Curator::start();
    curator.send(&format!("acquire a /app/{name}"));
    curator.wait_until_held("a");
    let seen = locks.inspect(&name).await.unwrap().pop().unwrap();
    let broken = locks.break_lock(&name, &seen, lock_core::BreakMode::Now).await.unwrap().unwrap();
    let guard = locks.lock(&name).acquire().await.unwrap();
    assert!(guard.token_if_any() > broken.token.as_ref());
    assert!(
        locks.break_lock(&name, &seen, lock_core::BreakMode::Now).await.unwrap().is_none(),
        "it is another's by now"
    );
    guard.release().await.unwrap();
}
