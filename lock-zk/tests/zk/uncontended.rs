//! Locks that are used repeatedly: an uncontended acquire saves the read of the queue, and is never
//! wrong about it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lock_core::{ErrorKind, LockName, Locks};
use lock_testkit::ZooKeeper;
use zookeeper_client::{Acls, Client, CreateMode};

use crate::fixture::{
    client, locks, nodes, secs, session_of, shared_server, start_waiting, unique_name, until, within_bound,
};

/// The uses of a lock before its acquires save the read.
const WARM_UP_CYCLES: i64 = 4;

async fn cycle(locks: &Locks, name: &LockName) {
    locks.lock(name).acquire().await.unwrap().release().await.unwrap();
}

async fn warm_up(locks: &Locks, name: &LockName) {
    for _ in 0..WARM_UP_CYCLES {
        cycle(locks, name).await;
    }
}

/// A lock after its warm-up, the store of that, and another program's client.
async fn warm_lock(zookeeper: &ZooKeeper, endpoints: Vec<String>, what: &str) -> (LockName, Locks, Client) {
    let (name, ours) = (unique_name(what), locks(endpoints, secs(60)).await);
    warm_up(&ours, &name).await;
    (name, ours, client(zookeeper).await)
}

/// Another program enters the queue.
async fn enter_queue(client: &Client, name: &LockName) -> String {
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("/app/{name}/_c_00000000-0000-4000-8000-000000000000-lock-");
    let (_, number) = client.create(&prefix, b"", &mode).await.unwrap();
    format!("{prefix}{number}")
}

/// Deletes and makes the lock node again, and uses it until the next number is the one that would
/// have come without that.
async fn recreate_lock_node(client: &Client, name: &LockName) -> String {
    let folder = format!("/app/{name}");
    client.delete(&folder, None).await.unwrap();
    client.create(&folder, b"", &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
    for _ in 1..WARM_UP_CYCLES {
        client.delete(&enter_queue(client, name).await, None).await.unwrap();
    }
    enter_queue(client, name).await
}

/// The number of requests that the server received.
fn requests(zookeeper: &ZooKeeper) -> u64 {
    let mut server = TcpStream::connect(&zookeeper.endpoints()[0]).unwrap();
    server.write_all(b"srvr").unwrap();
    let mut answer = String::new();
    server.read_to_string(&mut answer).unwrap();
    answer.lines().find_map(|line| line.strip_prefix("Received: ")).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_is_used_often_costs_a_request_to_acquire_and_one_to_release() {
    let zookeeper = ZooKeeper::start(1);
    let (ours, name) = (locks(zookeeper.endpoints(), secs(100)).await, unique_name("often"));
    warm_up(&ours, &name).await;
    let before = requests(&zookeeper);
    for _ in 0..100 {
        cycle(&ours, &name).await;
    }
    // The rest are heartbeats.
    let sent = requests(&zookeeper) - before;
    assert!((200..230).contains(&sent), "{sent} requests for 100 cycles");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_since_is_seen() {
    let zookeeper = shared_server();
    let (name, ours, client) = warm_lock(zookeeper, zookeeper.endpoints(), "since").await;
    let theirs = enter_queue(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_that_use_a_lock_often_never_hold_it_both() {
    let zookeeper = shared_server();
    let (name, ours, client) = warm_lock(zookeeper, zookeeper.endpoints(), "both").await;
    let first = ours.lock(&name).acquire().await.unwrap();
    let second = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    first.release().await.unwrap();
    within_bound("its turn", second).await.unwrap().unwrap().release().await.unwrap();
    cycle(&ours, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_was_deleted_and_made_anew_is_looked_at() {
    let zookeeper = shared_server();
    let (name, ours, client) = warm_lock(zookeeper, zookeeper.endpoints(), "anew").await;
    let theirs = recreate_lock_node(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    // It has the number that it would have had, and is not the first.
    let entries = nodes(&client, name.as_str()).await;
    assert!(entries[1].ends_with(&format!("-lock-{WARM_UP_CYCLES:010}")), "{entries:?}");
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_was_made_anew_while_the_connection_was_cut_is_looked_at() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = warm_lock(&zookeeper, zookeeper.proxy_endpoints(), "cut").await;
    zookeeper.server(0).proxy().cut();
    recreate_lock_node(&client, &name).await;
    zookeeper.server(0).proxy().forward();
    let acquire = || ours.lock(&name).wait(Duration::from_secs(1)).acquire();
    // The first attempt may fail with the connection; none may find the lock free.
    let mut ends = within_bound("an answer", acquire()).await.unwrap_err();
    while ends.kind() != ErrorKind::Contended {
        ends = within_bound("an answer", acquire()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_takes_what_it_knew_with_it() {
    let zookeeper = shared_server();
    let (name, ours, client) = warm_lock(zookeeper, zookeeper.endpoints(), "ended").await;
    let guard = ours.lock(&name).acquire().await.unwrap();
    let own = nodes(&client, name.as_str()).await.remove(0);
    zookeeper.end_session(session_of(&client, &own).await);
    within_bound("the loss", guard.lost()).await;
    let theirs = enter_queue(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
    warm_up(&ours, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_dropped_when_its_reply_was_lost_leaves_nothing_and_who_came_since_is_seen() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = warm_lock(&zookeeper, zookeeper.proxy_endpoints(), "dropped").await;
    zookeeper.server(0).proxy().lose_replies();
    let acquire = tokio::spawn(ours.lock(&name).acquire());
    until("its node", || async { nodes(&client, name.as_str()).await.len() == 1 }).await;
    acquire.abort();
    zookeeper.server(0).proxy().forward();
    until("its end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    enter_queue(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_after_a_release_whose_reply_was_lost_is_seen() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = warm_lock(&zookeeper, zookeeper.proxy_endpoints(), "released").await;
    let guard = ours.lock(&name).acquire().await.unwrap();
    zookeeper.server(0).proxy().lose_replies();
    let release = tokio::spawn(guard.release());
    until("its end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    enter_queue(&client, &name).await;
    zookeeper.server(0).proxy().forward();
    // It may have succeeded, or its effect may be unknown.
    drop(within_bound("an answer", release).await.unwrap());
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_was_made_anew_after_the_server_was_killed_and_came_back_is_looked_at() {
    let mut zookeeper = ZooKeeper::start(1);
    let (name, ours, _) = warm_lock(&zookeeper, zookeeper.endpoints(), "killed").await;
    zookeeper.kill_all();
    zookeeper.start_all();
    let client = client(&zookeeper).await;
    recreate_lock_node(&client, &name).await;
    let acquire = || ours.lock(&name).wait(Duration::from_secs(1)).acquire();
    let mut ends = within_bound("an answer", acquire()).await.unwrap_err();
    while ends.kind() != ErrorKind::Contended {
        ends = within_bound("an answer", acquire()).await.unwrap_err();
    }
}
