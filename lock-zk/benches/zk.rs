//! Rates of the store in ZooKeeper against the bare client, the client's own recipe and Curator, on
//! a real server.
//!
//! `cargo bench -p lock-zk --bench zk [PART]`, where a part is `cycle`, `many-names`, `one-name` or
//! `many-locks`; it prints rates and ratios, and asserts nothing: the machine may be busy.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on shall panic")]

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lock_core::{Clock, Locks};
use lock_testkit::{Process, ZooKeeper};
use lock_zk::{ZkConfig, ZkStore};
use zookeeper_client::{Acls, Client, CreateMode, LockPrefix};

const ROUNDS: usize = 7;
const CYCLES: u32 = 300;
const TASKS: usize = 64;
const WAITERS: usize = 16;
const MEASURED_TIME: Duration = Duration::from_secs(3);
const TTL: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let zookeeper = ZooKeeper::start(1);
    let mut config = ZkConfig::new(zookeeper.endpoints(), "/bench");
    config.tick = Some(ZooKeeper::TICK);
    let store = Arc::new(ZkStore::connect(config, &Clock::system()).await.unwrap());
    let locks = Locks::builder_of(store).ttl(TTL).build();
    let client = Client::connector().with_session_timeout(TTL).connect(&zookeeper.endpoints()[0]).await.unwrap();
    // Warm-up: the server's virtual machine compiles code that runs often.
    measure_rate(WAITERS, &own_of_many(&locks)).await;
    measure_rate(WAITERS, &recipe_of_many(&client)).await;
    let parts: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if is_wanted("cycle") {
        cycles(&locks, &client).await;
    }
    if is_wanted("many-names") {
        many_names(&locks, &client).await;
    }
    if is_wanted("one-name") {
        one_name(&locks, &client, &zookeeper).await;
    }
    if is_wanted("many-locks") {
        many_locks(&locks, &client).await;
    }
}

/// One task, one key: acquire and release, against the creation and deletion of an ephemeral node.
async fn cycles(locks: &Locks, client: &Client) {
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(
            cycle_rate(CYCLES, || async { locks.lock("job").acquire().await.unwrap().release().await.unwrap() }).await,
        );
        bare.push(cycle_rate(CYCLES, || bare_cycle(client)).await);
    }
    let ratios: Vec<f64> = ours.iter().zip(&bare).map(|(ours, bare)| ours / bare).collect();
    println!("cycle, one task, one key: {:.0}/s; bare create and delete: {:.0}/s", median(ours), median(bare));
    println!("  ratio: {:.2} (0.9 is the aim)", median(ratios));
}

async fn bare_cycle(client: &Client) {
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create("/bench/bare-", b"x", &mode).await.unwrap();
    client.delete(&format!("/bench/bare-{sequence}"), None).await.unwrap();
}

/// Many tasks, each with a key of its own, against the client's own recipe.
async fn many_names(locks: &Locks, client: &Client) {
    let (mut ours, mut recipe) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(measure_rate(TASKS, &own_of_many(locks)).await);
        recipe.push(measure_rate(TASKS, &recipe_of_many(client)).await);
    }
    let ratios: Vec<f64> = ours.iter().zip(&recipe).map(|(ours, recipe)| ours / recipe).collect();
    println!("{TASKS} tasks, a key each: {:.0}/s; the client's lock(): {:.0}/s", median(ours), median(recipe));
    println!("  ratio: {:.2} (0.9 is the aim)", median(ratios));
}

fn own_of_many(locks: &Locks) -> impl Fn(usize) -> Cycle + Clone + Send + 'static {
    let locks = locks.clone();
    move |task| {
        let locks = locks.clone();
        Box::pin(async move {
            locks.lock(format!("of-many-{task}")).acquire().await.unwrap().release().await.unwrap();
        })
    }
}

fn recipe_of_many(client: &Client) -> impl Fn(usize) -> Cycle + Clone + Send + 'static {
    let client = client.clone();
    move |task| {
        let client = client.clone();
        Box::pin(async move { recipe(&client, &format!("/bench/recipe-{task}")).await })
    }
}

type Cycle = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// One cycle of the client's own lock. That releases on drop only, so that the node is deleted
/// here, where it can be awaited.
async fn recipe(client: &Client, folder: &str) {
    let parents = CreateMode::Container.with_acls(Acls::anyone_all());
    let options = zookeeper_client::LockOptions::new(Acls::anyone_all()).with_ancestor_options(parents).unwrap();
    let lock = client.lock(LockPrefix::new_curator(folder, "lock-").unwrap(), b"x", options).await.unwrap();
    let path = lock.lock_path().to_owned();
    std::mem::forget(lock);
    client.delete(&path, None).await.unwrap();
}

/// Sixteen waiters on one name, against the client's own recipe and Curator.
async fn one_name(locks: &Locks, client: &Client, zookeeper: &ZooKeeper) {
    let own = {
        let locks = locks.clone();
        move |_| -> Cycle {
            let locks = locks.clone();
            Box::pin(async move { locks.lock("contended").acquire().await.unwrap().release().await.unwrap() })
        }
    };
    let theirs = {
        let client = client.clone();
        move |_| -> Cycle {
            let client = client.clone();
            Box::pin(async move { recipe(&client, "/bench/recipe").await })
        }
    };
    let mut curator = Curator::start(&zookeeper.endpoints()[0]);
    curator.rate();
    let (mut ours, mut recipes, mut curators) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(measure_rate(WAITERS, &own).await);
        recipes.push(measure_rate(WAITERS, &theirs).await);
        curators.push(curator.rate());
    }
    let ratio = |others: &[f64]| median(ours.iter().zip(others).map(|(ours, other)| ours / other).collect());
    let (to_recipe, to_curator) = (ratio(&recipes), ratio(&curators));
    println!(
        "hand-over with {WAITERS} waiters: {:.0}/s; the client's lock(): {:.0}/s; Curator: {:.0}/s",
        median(ours),
        median(recipes),
        median(curators)
    );
    println!(
        "  ratios: {to_recipe:.2} to the client's lock(), {to_curator:.2} to Curator (1 to one of them is the aim)"
    );
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
        let folder = tempfile::tempdir().unwrap();
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
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zk/Contender.java");
        let made = Command::new("javac").args(["-cp", &path, "-d"]).arg(folder.path()).arg(source).status();
        assert!(made.unwrap().success());
        let mut java = Command::new("java");
        java.args(["-cp", &path, "Contender", endpoint]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(java.stderr(Stdio::null()));
        let mut lines = BufReader::new(process.child().stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        Curator { process, lines, _folder: folder }
    }

    fn rate(&mut self) -> f64 {
        let begun = Instant::now();
        let line = format!("cycles {} {WAITERS} /bench/curator -\n", Curator::CYCLES);
        self.process.child().stdin.as_mut().unwrap().write_all(line.as_bytes()).unwrap();
        assert_eq!(self.lines.next().unwrap().unwrap(), "done");
        f64::from(Curator::CYCLES * WAITERS as u32) / begun.elapsed().as_secs_f64()
    }
}

/// The rate of cycles a second that this number of tasks reaches.
async fn measure_rate(tasks: usize, cycle: &(impl Fn(usize) -> Cycle + Clone + Send + 'static)) -> f64 {
    let (done, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut running = tokio::task::JoinSet::new();
    for task in 0..tasks {
        let (cycle, done, over) = (cycle.clone(), done.clone(), over.clone());
        running.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                cycle(task).await;
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    // The first part is for all tasks to start.
    tokio::time::sleep(MEASURED_TIME / 6).await;
    let (from, before) = (Instant::now(), done.load(Ordering::Relaxed));
    tokio::time::sleep(MEASURED_TIME).await;
    let rate = (done.load(Ordering::Relaxed) - before) as f64 / from.elapsed().as_secs_f64();
    over.store(true, Ordering::Relaxed);
    while running.join_next().await.is_some() {}
    rate
}

/// Ten thousand renewed locks: one round renews them all.
async fn many_locks(locks: &Locks, client: &Client) {
    let begun = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..100 {
        let locks = locks.clone();
        tasks.spawn(async move {
            let mut guards = Vec::new();
            for i in 0..100 {
                let name = format!("many/{}", first * 100 + i);
                guards.push(locks.lock(name).ttl(Duration::from_secs(100)).acquire().await.unwrap());
            }
            guards
        });
    }
    let mut guards = Vec::new();
    while let Some(some) = tasks.join_next().await {
        guards.extend(some.unwrap());
    }
    println!("{} renewed locks in {:.1?}", guards.len(), begun.elapsed());
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        // Then the round begins with a heartbeat of its own.
        tokio::time::sleep(ZooKeeper::TICK * 2).await;
        let begun = Instant::now();
        guards[0].renew().await.unwrap();
        rounds.push(begun.elapsed().saturating_sub(ZooKeeper::TICK).as_secs_f64() * 1e3);
    }
    println!("  one renewal round of them all, with a look at every node: a tick and {:.1} ms", median(rounds));
    let begun = Instant::now();
    assert_eq!(
        client.list_children("/bench").await.unwrap().iter().filter(|node| node.starts_with("many")).count(),
        10_000
    );
    println!("  listing them: {:.1?}", begun.elapsed());
    drop(guards);
    locks.close().await;
}

async fn cycle_rate<F: Future<Output = ()>>(times: u32, cycle: impl Fn() -> F) -> f64 {
    let begun = Instant::now();
    for _ in 0..times {
        cycle().await;
    }
    f64::from(times) / begun.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
