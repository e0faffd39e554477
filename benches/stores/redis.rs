//! A lock in Redis, beside the bare commands on the same kind of connection.

use std::time::{Duration, Instant};

use leasehold::Locks;
use lock_testkit::RedisServer;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo, ProtocolVersion, Script};

use crate::locks::{HELD, hold_many, own_names};
use crate::measure::{compare, rate};

pub(crate) async fn run() {
    let server = RedisServer::start(&[]);
    let (connection, locks) = (bare(&server).await, leasehold::connect(server.url()).await.expect("a store"));
    for (tasks, what) in [(1, "1 task"), (64, "64 tasks, a name each")] {
        let other = "a bare SET NX PX and compare-and-delete";
        let (ours, bare) = (async || own_names(&locks, tasks).await, async || bare_rate(&connection, tasks).await);
        compare(what, ours, other, bare).await;
    }
    contended(&locks).await;
    renewals(&server, &locks).await;
}

async fn bare(server: &RedisServer) -> MultiplexedConnection {
    let info = server.url().into_connection_info().expect("a URL");
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = redis::Client::open(info).expect("a client");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn bare_rate(connection: &MultiplexedConnection, tasks: usize) -> f64 {
    const DELETE: &str =
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) else return 0 end";
    rate(tasks, |number, until| {
        let mut connection = connection.clone();
        async move {
            let (delete, key) = (Script::new(DELETE), format!("bare:{number}"));
            let mut cycles = 0;
            while Instant::now() < until {
                let holder = format!("{:032x}", u128::from(cycles));
                let mut set = redis::cmd("SET");
                set.arg(&key).arg(&holder).arg("NX").arg("PX").arg(30_000);
                let () = set.query_async(&mut connection).await.expect("it is free");
                let () = delete.key(&key).arg(&holder).invoke_async(&mut connection).await.expect("it was held");
                cycles += 1;
            }
            cycles
        }
    })
    .await
}

/// Sixteen tasks on one name: how often the holder changes, and how long the longest wait is.
async fn contended(locks: &Locks) {
    let started = Instant::now();
    let until = started + Duration::from_secs(3);
    let tasks = (0..16).map(|_| {
        let lock = locks.lock("contended");
        tokio::spawn(async move {
            let (mut waits, mut tokens) = (Vec::new(), Vec::new());
            while Instant::now() < until {
                let asked = Instant::now();
                let guard = lock.acquire().await.expect("it becomes free");
                waits.push(asked.elapsed());
                tokens.push(guard.token_if_any().expect("a token").number());
                guard.release().await.expect("it was held");
            }
            (waits, tokens)
        })
    });
    let (mut waits, mut holders) = (Vec::new(), Vec::new());
    for (number, task) in tasks.collect::<Vec<_>>().into_iter().enumerate() {
        let (own, tokens) = task.await.expect("a task ends");
        waits.extend(own);
        holders.extend(tokens.into_iter().map(|token| (token, number)));
    }
    let seconds = started.elapsed().as_secs_f64();
    holders.sort_unstable();
    let changes = holders.windows(2).filter(|pair| pair[0].1 != pair[1].1).count();
    let mean = waits.iter().sum::<Duration>() / waits.len() as u32;
    let longest = waits.iter().max().copied().unwrap_or_default();
    println!(
        "  16 tasks on one name: {:.0} cycles/s; the holder changed at {:.3} of them; the longest wait was {:.1} times \
         the mean ({mean:.0?})",
        waits.len() as f64 / seconds,
        changes as f64 / (holders.len() - 1) as f64,
        longest.as_secs_f64() / mean.as_secs_f64(),
    );
}

/// The number of calls of scripts so far.
fn calls(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).expect("scripts were called");
    line.split(['=', ',']).nth(1).and_then(|calls| calls.parse().ok()).expect("a number")
}

async fn renewals(server: &RedisServer, locks: &Locks) {
    let ttl = Duration::from_secs(15);
    let guards = hold_many(locks, ttl).await;
    let (before, started) = (calls(server), Instant::now());
    tokio::time::sleep(ttl * 2).await;
    // Leases are renewed at a third of their TTL.
    let rounds = started.elapsed().as_secs_f64() / (ttl / 3).as_secs_f64();
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    let calls = (calls(server) - before) as f64 / rounds;
    println!("  {HELD} renewed locks: {calls:.0} script calls per round; {valid} are valid after {rounds:.0} rounds");
}
