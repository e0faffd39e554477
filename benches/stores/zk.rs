//! A lock in ZooKeeper, beside the bare client, its own recipe and Curator, on one server.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use leasehold::Locks;
use lock_testkit::{Process, ZooKeeper};
use zookeeper_client::{Acls, Client, CreateMode, LockOptions, LockPrefix};

use crate::locks::{hold_many, one_name, own_names};
use crate::measure::{compare, median, rate, repeat};

const TASKS: usize = 64;
const WAITERS: usize = 16;
const TTL: Duration = Duration::from_secs(60);

pub(crate) async fn run() {
    let zookeeper = ZooKeeper::start(1);
    let endpoint = zookeeper.endpoints()[0].clone();
    let url = format!("zk://{endpoint}/bench?tick={}ms", ZooKeeper::TICK.as_millis());
    let locks = leasehold::connect(url).ttl(TTL).await.expect("a store");
    let client = Client::connector().with_session_timeout(TTL).connect(&endpoint).await.expect("a client");
    let (ours, bare) = (async || own_names(&locks, 1).await, async || bare_rate(&client).await);
    compare("1 task", ours, "a bare create and delete", bare).await;
    let recipe = "the client's lock()";
    let (ours, theirs) = (async || own_names(&locks, TASKS).await, async || recipe_rate(&client, TASKS, true).await);
    compare(&format!("{TASKS} tasks, a name each"), ours, recipe, theirs).await;
    let (ours, theirs) =
        (async || one_name(&locks, WAITERS).await, async || recipe_rate(&client, WAITERS, false).await);
    compare(&format!("{WAITERS} tasks on one name"), ours, recipe, theirs).await;
    let curator = Arc::new(Mutex::new(Curator::start(&endpoint)));
    let (ours, theirs) = (async || one_name(&locks, WAITERS).await, async || curator_rate(&curator).await);
    compare(&format!("{WAITERS} tasks on one name"), ours, "Curator", theirs).await;
    renewals(&locks).await;
}

async fn bare_rate(client: &Client) -> f64 {
    rate(1, |_, until| {
        let client = client.clone();
        async move { repeat(until, || bare_cycle(&client)).await }
    })
    .await
}

async fn bare_cycle(client: &Client) {
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create("/bench/bare-", b"x", &mode).await.expect("it is created");
    client.delete(&format!("/bench/bare-{sequence}"), None).await.expect("it is deleted");
}

async fn recipe_rate(client: &Client, tasks: usize, own_names: bool) -> f64 {
    rate(tasks, |number, until| {
        let client = client.clone();
        let folder = if own_names { format!("/bench/recipe-{number}") } else { "/bench/recipe".to_owned() };
        async move { repeat(until, || recipe_cycle(&client, &folder)).await }
    })
    .await
}

/// One cycle of the client's own lock. That releases on drop only, so that the node is deleted
/// here, where it can be awaited.
async fn recipe_cycle(client: &Client, folder: &str) {
    let parents = CreateMode::Container.with_acls(Acls::anyone_all());
    let options = LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents).expect("they are options");
    let prefix = LockPrefix::new_curator(folder, "lock-").expect("it is a prefix");
    let lock = client.lock(prefix, b"x", options).await.expect("it becomes free");
    let path = lock.lock_path().to_owned();
    std::mem::forget(lock);
    client.delete(&path, None).await.expect("it is deleted");
}

async fn curator_rate(curator: &Arc<Mutex<Curator>>) -> f64 {
    let curator = curator.clone();
    let rate = move || curator.lock().expect("nobody panicked").rate();
    tokio::task::spawn_blocking(rate).await.expect("it ends")
}

/// The program of the interoperation test, with a thread for each waiter.
struct Curator {
    process: Process,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Curator {
    const CYCLES: u32 = 100;

    fn start(endpoint: &str) -> Curator {
        let folder = tempfile::tempdir().expect("a folder is made");
        let jars = [
            "curator-recipes",
            "curator-framework",
            "curator-client",
            "zookeeper",
            "zookeeper-jute",
            "guava",
            "slf4j-nop",
        ];
        let jars = jars.map(|jar| format!("/usr/share/java/{jar}.jar")).join(":");
        let path = format!("{}:{jars}", folder.path().display());
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/lock-zk/tests/zk/Contender.java");
        let made = Command::new("javac").args(["-cp", &path, "-d"]).arg(folder.path()).arg(source).status();
        assert!(made.expect("javac is there").success(), "it compiles");
        let mut java = Command::new("java");
        java.args(["-cp", &path, "Contender", endpoint]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(java.stderr(Stdio::null()));
        let mut lines = BufReader::new(process.child().stdout.take().expect("a pipe")).lines();
        let ready = lines.next().expect("a line").expect("a line");
        assert_eq!(ready, "ready");
        Curator { process, lines, _folder: folder }
    }

    fn rate(&mut self) -> f64 {
        let started = Instant::now();
        let order = format!("cycles {} {WAITERS} /bench/curator -\n", Curator::CYCLES);
        self.process.child().stdin.as_mut().expect("a pipe").write_all(order.as_bytes()).expect("it reads");
        let answer = self.lines.next().expect("a line").expect("a line");
        assert_eq!(answer, "done");
        f64::from(Curator::CYCLES * WAITERS as u32) / started.elapsed().as_secs_f64()
    }
}

/// One round renews them all.
async fn renewals(locks: &Locks) {
    const ROUNDS: usize = 7;
    let guards = hold_many(locks, Duration::from_secs(100)).await;
    let mut millis = Vec::new();
    for _ in 0..ROUNDS {
        // Then the round begins with a heartbeat of its own.
        tokio::time::sleep(ZooKeeper::TICK * 2).await;
        let started = Instant::now();
        guards[0].renew().await.expect("it is held");
        millis.push(started.elapsed().saturating_sub(ZooKeeper::TICK).as_secs_f64() * 1e3);
    }
    println!("  one renewal round of them all: a tick and {:.1} ms", median(millis));
    drop(guards);
    locks.close().await;
}
