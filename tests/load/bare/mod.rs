//! The same loads with the bare client of each server, for comparison.

mod etcd;
mod postgres;
mod redis;
mod zk;

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use tokio::task::JoinSet;

use crate::fixture::Fixture;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// A lock made in an afternoon of the usual commands of the client of the server.
#[async_trait]
pub(crate) trait Bare: Send + Sync + 'static {
    /// Acquires; returns the value that releases it.
    async fn acquire(&self, name: &str, ttl: Duration) -> Result<String>;

    /// Acquires the lock if it is free.
    async fn take(&self, name: &str, ttl: Duration) -> Result<Option<String>>;

    /// Renews the lock, unless its session does.
    async fn renew(&self, keys: &[String], ttl: Duration) -> Result<()>;

    /// Releases; returns whether it was held.
    async fn release(&self, key: &str) -> Result<bool>;
}

type Client = Arc<dyn Bare>;

/// The figures of the bare client under a load.
pub(crate) fn figures(scenario: &str, fixture: &Fixture) -> String {
    const BOUND: Duration = Duration::from_secs(180);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(async { tokio::time::timeout(BOUND, run(scenario, fixture)).await });
    runtime.shutdown_background();
    match done {
        Ok(Ok(figures)) => figures,
        Ok(Err(error)) => format!("it failed: {error}"),
        Err(_) => format!("it did not end within {BOUND:?}"),
    }
}

async fn run(scenario: &str, fixture: &Fixture) -> Result<String> {
    let deployment = tokio::task::block_in_place(|| fixture.make());
    match scenario {
        "crowd" => crowd(fixture, &deployment.url).await,
        "drop" => drop_at_once(fixture, &deployment.url).await,
        "hand-over" => hand_over(fixture, &deployment.url).await,
        "pause" => {
            const TTL: Duration = Duration::from_secs(30);
            let client = connect(fixture, &deployment.url, TTL).await?;
            let held = Held::acquire(&client, "held", 20_000, TTL).await?;
            deployment.server().pause();
            tokio::time::sleep(TTL / 2).await;
            deployment.server().resume();
            tokio::time::sleep(TTL / 2).await;
            Ok(format!("held until released: {}", held.release().await))
        }
        "tries" => {
            let (url, links) = deployment.proxied();
            links.iter().for_each(|link| link.delay(Duration::from_millis(20)));
            tries(fixture, &url).await
        }
        _ => Err(format!("there is no load {scenario}").into()),
    }
}

async fn connect(fixture: &Fixture, url: &str, ttl: Duration) -> Result<Client> {
    let (_, address) = url.split_once("://").ok_or("no address")?;
    let address = address.split('/').next().unwrap_or(address);
    Ok(match fixture.name {
        "redis" => Arc::new(redis::Redis::connect(url).await?),
        "etcd" => Arc::new(etcd::Etcd::connect(address, ttl).await?),
        "zk" => Arc::new(zk::Zk::connect(address, ttl).await?),
        "postgres" => Arc::new(postgres::Postgres::connect(url).await?),
        other => return Err(format!("{other} has no client").into()),
    })
}

/// Locks that are renewed until they are released.
struct Held {
    client: Client,
    keys: Vec<String>,
    renewing: tokio::task::JoinHandle<()>,
}

impl Held {
    async fn acquire(client: &Client, group: &str, count: usize, ttl: Duration) -> Result<Held> {
        const AT_A_TIME: usize = 64;
        let mut tasks = JoinSet::new();
        for task in 0..AT_A_TIME {
            let (client, group) = (client.clone(), group.to_owned());
            tasks.spawn(async move {
                let mut keys = Vec::new();
                for i in (task..count).step_by(AT_A_TIME) {
                    keys.push(client.acquire(&format!("{group}-{i}"), ttl).await?);
                }
                Result::Ok(keys)
            });
        }
        let mut keys = Vec::new();
        for acquired in tasks.join_all().await {
            keys.extend(acquired?);
        }
        let (renewed, all) = (client.clone(), keys.clone());
        let renewing = tokio::spawn(async move {
            loop {
                tokio::time::sleep(ttl / 3).await;
                // It is retried; a loss shows at the release.
                let _ = tokio::time::timeout(ttl, renewed.renew(&all, ttl)).await;
            }
        });
        Ok(Held { client: client.clone(), keys, renewing })
    }

    /// Releases all at once; returns how many were held.
    async fn release(self) -> String {
        self.renewing.abort();
        let (all, started) = (self.keys.len(), Instant::now());
        let released = self.keys.into_iter().map(|key| {
            let client = self.client.clone();
            async move { client.release(&key).await }
        });
        let (mut held, mut failed) = (0, 0);
        for released in released.collect::<JoinSet<_>>().join_all().await {
            match released {
                Ok(was_held) => held += usize::from(was_held),
                Err(_) => failed += 1,
            }
        }
        format!("{held} of {all}, {failed} without an answer, in {:.1} s", started.elapsed().as_secs_f64())
    }
}

/// Runs waiters that release at once; returns how many were served, and the time.
struct Crowd(JoinSet<Result<bool>>);

impl Crowd {
    fn wait(clients: &[Client], names: impl Iterator<Item = String>, ttl: Duration) -> Crowd {
        let waiter = |(number, name): (usize, String)| {
            let client = clients[number % clients.len()].clone();
            async move { client.release(&client.acquire(&name, ttl).await?).await }
        };
        Crowd(names.enumerate().map(waiter).collect())
    }

    async fn served(mut self) -> String {
        const LIMIT: Duration = Duration::from_secs(120);
        let (started, all, mut served) = (Instant::now(), self.0.len(), 0);
        let until = tokio::time::Instant::now() + LIMIT;
        while let Ok(Some(done)) = tokio::time::timeout_at(until, self.0.join_next()).await {
            served += usize::from(matches!(done, Ok(Ok(true))));
        }
        format!("{served} of {all} in {:.1} s", started.elapsed().as_secs_f64())
    }
}

const TTL: Duration = Duration::from_secs(15);
const KEPT: usize = 50;

async fn crowd(fixture: &Fixture, url: &str) -> Result<String> {
    let clients = [connect(fixture, url, TTL).await?, connect(fixture, url, TTL).await?];
    let held = Held::acquire(&clients[0], "job", 1, TTL).await?;
    let crowd = Crowd::wait(&clients, std::iter::repeat_n("job-0".to_owned(), 3_000), TTL);
    tokio::time::sleep(TTL + TTL / 5).await;
    let released = held.release().await;
    Ok(format!("held until released: {released}; served: {}", crowd.served().await))
}

async fn drop_at_once(fixture: &Fixture, url: &str) -> Result<String> {
    let client = connect(fixture, url, TTL).await?;
    let kept = Held::acquire(&client, "kept", KEPT, TTL).await?;
    let dropped = Held::acquire(&client, "dropped", 10_000, TTL).await?.release().await;
    Ok(format!("given back: {dropped}; kept until released: {}", kept.release().await))
}

async fn hand_over(fixture: &Fixture, url: &str) -> Result<String> {
    const NAMES: usize = 3_000;
    let (first, second) = (connect(fixture, url, TTL).await?, connect(fixture, url, TTL).await?);
    let kept = Held::acquire(&first, "kept", KEPT, TTL).await?;
    let held = Held::acquire(&first, "name", NAMES, TTL).await?;
    let crowd = Crowd::wait(&[second], (0..NAMES).map(|i| format!("name-{i}")), TTL);
    tokio::time::sleep(TTL / 3).await;
    let released = held.release().await;
    let served = crowd.served().await;
    Ok(format!("released: {released}; served: {served}; kept until released: {}", kept.release().await))
}

async fn tries(fixture: &Fixture, url: &str) -> Result<String> {
    const TTL: Duration = Duration::from_secs(3);
    let client = connect(fixture, url, TTL).await?;
    let kept = Held::acquire(&client, "kept", KEPT, TTL).await?;
    let until = Instant::now() + TTL * 3;
    let tries = (0..4_000).map(|number| {
        let (client, name) = (client.clone(), format!("tried-{number}"));
        async move {
            let (mut tried, mut failed) = (0_usize, 0_usize);
            while Instant::now() < until {
                match client.take(&name, TTL).await {
                    Ok(Some(key)) => {
                        tried += 1;
                        failed += usize::from(client.release(&key).await.is_err());
                    }
                    Ok(None) => tried += 1,
                    Err(_) => failed += 1,
                }
            }
            (tried, failed)
        }
    });
    let tries = tries.collect::<JoinSet<_>>().join_all().await;
    let (tried, failed) = tries.iter().fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
    let starved = tries.iter().filter(|(tried, _)| *tried == 0).count();
    let kept = kept.release().await;
    Ok(format!("tried: {tried}, {failed} failed, {starved} never answered; kept until released: {kept}"))
}
