//! What a lock in Redis costs beside the bare commands on the same kind of connection, as ratios
//! measured in turns.
//!
//! `cargo bench --features redis --bench redis`

use std::time::{Duration, Instant};

use leasehold::Locks;
use lock_testkit::RedisServer;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo, ProtocolVersion, Script};

/// Each pair is measured in so many turns, of which the median counts: what else the machine does
/// hits both alike.
const MEASUREMENTS: usize = 21;
const MEASUREMENT_TIME: Duration = Duration::from_millis(200);

async fn bare(server: &RedisServer) -> MultiplexedConnection {
    let info = server.url().into_connection_info().expect("a URL");
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = redis::Client::open(info).expect("a client");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

async fn locks(server: &RedisServer) -> Locks {
    leasehold::connect(server.url()).await.expect("a store")
}

/// Cycles per second of this many tasks.
async fn rate<F: Future<Output = u64> + Send + 'static>(tasks: usize, task: impl Fn(usize, Instant) -> F) -> f64 {
    let start = Instant::now();
    let running: Vec<_> = (0..tasks).map(|number| tokio::spawn(task(number, start + MEASUREMENT_TIME))).collect();
    let mut cycles = 0;
    for task in running {
        cycles += task.await.expect("a task ends");
    }
    cycles as f64 / start.elapsed().as_secs_f64()
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

async fn our_rate(locks: &Locks, tasks: usize) -> f64 {
    rate(tasks, |number, until| {
        let lock = locks.lock(format!("ours:{number}"));
        async move {
            let mut cycles = 0;
            while Instant::now() < until {
                lock.acquire().await.expect("it is free").release().await.expect("it was held");
                cycles += 1;
            }
            cycles
        }
    })
    .await
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn uncontended(server: &RedisServer) {
    let (connection, locks) = (bare(server).await, locks(server).await);
    for tasks in [1, 64] {
        let (mut ratios, mut ours, mut bares) = (Vec::new(), Vec::new(), Vec::new());
        for measurement in 0..MEASUREMENTS {
            // The order alternates, so that neither always runs second.
            let (bare, our) = if measurement % 2 == 0 {
                let bare = bare_rate(&connection, tasks).await;
                (bare, our_rate(&locks, tasks).await)
            } else {
                let our = our_rate(&locks, tasks).await;
                (bare_rate(&connection, tasks).await, our)
            };
            ratios.push(our / bare);
            ours.push(our);
            bares.push(bare);
        }
        println!(
            "uncontended, {tasks:2} tasks: {:.2} of the rate of a bare SET NX PX and compare-and-delete ({:.0}/s against {:.0}/s)",
            median(ratios),
            median(ours),
            median(bares)
        );
    }
}

async fn contended(server: &RedisServer) {
    let locks = locks(server).await;
    let until = Instant::now() + Duration::from_secs(3);
    let tasks: Vec<_> = (0..16)
        .map(|_| {
            let lock = locks.lock("one key");
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
        })
        .collect();
    let started = Instant::now();
    let (mut waits, mut holders) = (Vec::new(), Vec::new());
    for (number, task) in tasks.into_iter().enumerate() {
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
        "16 tasks on one key: {:.0} cycles/s; the holder changed at {:.3} of them; the longest wait was {:.1} times the mean ({mean:.0?})",
        waits.len() as f64 / seconds,
        changes as f64 / (holders.len() - 1) as f64,
        longest.as_secs_f64() / mean.as_secs_f64(),
    );
}

fn calls(server: &RedisServer) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha:")).expect("scripts were called");
    line.split(['=', ',']).nth(1).and_then(|calls| calls.parse().ok()).expect("a number")
}

async fn renewed(server: &RedisServer) {
    const HELD: usize = 10_000;
    let locks = locks(server).await;
    let (ttl, mut guards) = (Duration::from_secs(15), Vec::with_capacity(HELD));
    for number in 0..HELD {
        guards.push(locks.lock(format!("held {number}")).ttl(ttl).acquire().await.expect("it is free"));
    }
    let (before, started) = (calls(server), Instant::now());
    tokio::time::sleep(ttl * 2).await;
    // Leases are renewed at a third of their TTL.
    let rounds = started.elapsed().as_secs_f64() / (ttl / 3).as_secs_f64();
    let valid = guards.iter().filter(|guard| guard.is_valid()).count();
    println!(
        "{HELD} renewed locks: {:.0} script calls per round; {valid} of them valid after {:.0} rounds",
        (calls(server) - before) as f64 / rounds,
        rounds
    );
}

fn main() {
    // `cargo test` runs benchmarks too, and shall not wait for their figures.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let server = RedisServer::start(&[]);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        uncontended(&server).await;
        contended(&server).await;
        renewed(&server).await;
    });
}
