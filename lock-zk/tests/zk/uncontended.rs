//! Locks that are used again and again: who left a line empty need not look at it, and is never
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

/// So often a lock is used before it is known well.
const OFTEN: i64 = 4;

async fn cycle(locks: &Locks, name: &LockName) {
    locks.lock(name).acquire().await.unwrap().release().await.unwrap();
}

async fn use_often(locks: &Locks, name: &LockName) {
    for _ in 0..OFTEN {
        cycle(locks, name).await;
    }
}

/// A lock that was used often, by whom, and another program's client.
async fn used_often(zookeeper: &ZooKeeper, endpoints: Vec<String>, what: &str) -> (LockName, Locks, Client) {
    let (name, ours) = (unique_name(what), locks(endpoints, secs(60)).await);
    use_often(&ours, &name).await;
    (name, ours, client(zookeeper).await)
}

/// Another program takes a place in the line.
async fn come(client: &Client, name: &LockName) -> String {
    let mode = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let prefix = format!("/app/{name}/_c_00000000-0000-4000-8000-000000000000-lock-");
    let (_, number) = client.create(&prefix, b"", &mode).await.unwrap();
    format!("{prefix}{number}")
}

/// Somebody deletes the lock's node, and others use it until the next number is the one that would
/// have come.
async fn make_anew(client: &Client, name: &LockName) -> String {
    let folder = format!("/app/{name}");
    client.delete(&folder, None).await.unwrap();
    client.create(&folder, b"", &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
    for _ in 1..OFTEN {
        client.delete(&come(client, name).await, None).await.unwrap();
    }
    come(client, name).await
}

/// How many requests the server was sent.
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
    use_often(&ours, &name).await;
    let before = requests(&zookeeper);
    for _ in 0..100 {
        cycle(&ours, &name).await;
    }
    // Beside them there are heartbeats.
    let sent = requests(&zookeeper) - before;
    assert!((200..230).contains(&sent), "{sent} requests for 100 cycles");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_since_is_seen() {
    let zookeeper = shared_server();
    let (name, ours, client) = used_often(zookeeper, zookeeper.endpoints(), "since").await;
    let theirs = come(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_that_use_a_lock_often_never_hold_it_both() {
    let zookeeper = shared_server();
    let (name, ours, client) = used_often(zookeeper, zookeeper.endpoints(), "both").await;
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
    let (name, ours, client) = used_often(zookeeper, zookeeper.endpoints(), "anew").await;
    let theirs = make_anew(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    // It has the very number that it would have had, and is not the first.
    let stands = nodes(&client, name.as_str()).await;
    assert!(stands[1].ends_with(&format!("-lock-{OFTEN:010}")), "{stands:?}");
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_was_made_anew_while_the_connection_was_cut_is_looked_at() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = used_often(&zookeeper, zookeeper.proxy_endpoints(), "cut").await;
    zookeeper.server(0).proxy().cut();
    make_anew(&client, &name).await;
    zookeeper.server(0).proxy().forward();
    let acquire = || ours.lock(&name).wait(Duration::from_secs(1)).acquire();
    // The first may find the connection gone; none may find the lock free.
    let mut ends = within_bound("an answer", acquire()).await.unwrap_err();
    while ends.kind() != ErrorKind::Contended {
        ends = within_bound("an answer", acquire()).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_takes_what_it_knew_with_it() {
    let zookeeper = shared_server();
    let (name, ours, client) = used_often(zookeeper, zookeeper.endpoints(), "ended").await;
    let guard = ours.lock(&name).acquire().await.unwrap();
    let own = nodes(&client, name.as_str()).await.remove(0);
    zookeeper.end_session(session_of(&client, &own).await);
    within_bound("the loss", guard.lost()).await;
    let theirs = come(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    client.delete(&theirs, None).await.unwrap();
    within_bound("its turn", waiter).await.unwrap().unwrap().release().await.unwrap();
    use_often(&ours, &name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acquire_that_is_dropped_when_its_reply_was_lost_leaves_nothing_and_who_came_since_is_seen() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = used_often(&zookeeper, zookeeper.proxy_endpoints(), "dropped").await;
    zookeeper.server(0).proxy().lose_replies();
    let acquire = tokio::spawn(ours.lock(&name).acquire());
    until("its node", || async { nodes(&client, name.as_str()).await.len() == 1 }).await;
    acquire.abort();
    zookeeper.server(0).proxy().forward();
    until("its end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    come(&client, &name).await;
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_came_after_a_release_whose_reply_was_lost_is_seen() {
    let zookeeper = ZooKeeper::start(1);
    let (name, ours, client) = used_often(&zookeeper, zookeeper.proxy_endpoints(), "released").await;
    let guard = ours.lock(&name).acquire().await.unwrap();
    zookeeper.server(0).proxy().lose_replies();
    let release = tokio::spawn(guard.release());
    until("its end", || async { nodes(&client, name.as_str()).await.is_empty() }).await;
    come(&client, &name).await;
    zookeeper.server(0).proxy().forward();
    // Whatever it says: that it was released, or that this is unknown.
    drop(within_bound("an answer", release).await.unwrap());
    let waiter = start_waiting(&ours, &name).await;
    assert_eq!(nodes(&client, name.as_str()).await.len(), 2);
    waiter.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_node_was_made_anew_after_the_server_was_killed_and_came_back_is_looked_at() {
    let mut zookeeper = ZooKeeper::start(1);
    let (name, ours, _) = used_often(&zookeeper, zookeeper.endpoints(), "killed").await;
    zookeeper.kill_all();
    zookeeper.start_all();
    let client = client(&zookeeper).await;
    make_anew(&client, &name).await;
    let acquire = || ours.lock(&name).wait(Duration::from_secs(1)).acquire();
    let mut ends = within_bound("an answer", acquire()).await.unwrap_err();
    while ends.kind() != ErrorKind::Contended {
        ends = within_bound("an answer", acquire()).await.unwrap_err();
    }
}
