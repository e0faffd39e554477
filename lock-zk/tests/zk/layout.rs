//! The layout in ZooKeeper, as other programs see it and make it.

use lock_testkit::ZooKeeper;
use zookeeper_client::{Acls, CreateMode};

use crate::fixture::{client, locks, nodes, secs, shared_server, start_waiting, unique_name, within_bound};

#[tokio::test(flavor = "multi_thread")]
async fn a_holders_node_is_named_as_curator_names_it_and_its_czxid_is_the_token() {
    let (zookeeper, name) = (shared_server(), unique_name("layout"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(zookeeper).await);
    let guard = locks.lock(&name).acquire().await.unwrap();
    let entries = nodes(&client, name.as_str()).await;
    let digits = guard.holder().to_string();
    let guid = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-");
    assert_eq!(entries, [format!("/app/{name}/_c_{guid}-lock-0000000000")]);
    let stat = client.check_stat(&entries[0]).await.unwrap().unwrap();
    assert_eq!(guard.token_if_any().unwrap().number(), stat.czxid.unsigned_abs());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_line_goes_on_where_the_count_goes_over_its_end() {
    let (zookeeper, name) = (shared_server(), unique_name("overflow"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(zookeeper).await);
    let folder = format!("/app/{name}");
    client.mkdir(&folder, &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
    // The last number, and the one that the server gives after it.
    let [last, first] = ["lock-2147483647", "lock--2147483648"].map(|node| format!("{folder}/{node}"));
    for node in [&first, &last] {
        client.create(node, b"", &CreateMode::Ephemeral.with_acls(Acls::anyone_all())).await.unwrap();
    }
    let shown = async || locks.inspect(&name).await.unwrap().pop().unwrap().info.unwrap().text;
    assert!(shown().await.contains("2147483647"), "{}", shown().await);
    client.delete(&last, None).await.unwrap();
    assert!(shown().await.contains("-2147483648"), "{}", shown().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_made_anew_counts_from_zero_and_tokens_rise_all_the_same() {
    let (zookeeper, name) = (shared_server(), unique_name("anew"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(zookeeper).await);
    let mut last = 0;
    for _ in 0..3 {
        for _ in 0..3 {
            let guard = locks.lock(&name).acquire().await.unwrap();
            let token = guard.token_if_any().unwrap().number();
            assert!(token > last);
            last = token;
            guard.release().await.unwrap();
        }
        client.delete(&format!("/app/{name}"), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_watches_the_one_ahead_of_it_and_no_other() {
    let zookeeper = ZooKeeper::start(1);
    let name = unique_name("herd");
    let locks = locks(zookeeper.endpoints(), secs(60)).await;
    let client = client(&zookeeper).await;
    let holder = locks.lock(&name).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for _ in 0..5 {
        waiters.push(start_waiting(&locks, &name).await);
    }
    let entries = nodes(&client, name.as_str()).await;
    assert_eq!(entries.len(), 6);
    // An entry in the middle goes: the one behind it reads the queue, and has still to wait.
    client.delete(&entries[2], None).await.unwrap();
    holder.release().await.unwrap();
    for (i, waiter) in waiters.into_iter().enumerate() {
        if i != 1 {
            within_bound("a turn", waiter).await.unwrap().unwrap().release().await.unwrap();
            continue;
        }
        // Its node was deleted: it makes another, behind the others.
        tokio::spawn(async move { within_bound("a turn", waiter).await.unwrap().unwrap().release().await });
    }
    locks.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_another_program_asks_to_give_back_is_shown_with_that() {
    let (zookeeper, name) = (shared_server(), unique_name("revoke"));
    let (locks, client) = (locks(zookeeper.endpoints(), secs(30)).await, client(zookeeper).await);
    let guard = locks.lock(&name).acquire().await.unwrap();
    // As Curator's Revoker does it.
    client.set_data(&nodes(&client, name.as_str()).await[0], b"__REVOKE__", None).await.unwrap();
    let by = locks.inspect(&name).await.unwrap().pop().unwrap();
    assert_eq!(by.holder, Some(guard.holder()));
    assert!(by.info.unwrap().text.contains("give it back"));
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_a_slash_at_its_end_a_path_is_one_place() {
    use lock_core::{Clock, Locks, Registry};
    let zookeeper = shared_server();
    let registry = Registry::new().with(lock_zk::ZkDriver);
    let mut both = Vec::new();
    for path in ["/place", "/place/"] {
        let url = format!("zk://{}{path}?tick=500ms", zookeeper.endpoints()[0]).parse().unwrap();
        both.push(Locks::builder_of(registry.open(&url, &Clock::system()).await.unwrap()).ttl(secs(30)).build());
    }
    let guard = both[0].lock("job").acquire().await.unwrap();
    assert!(both[1].lock("job").try_acquire().await.unwrap().is_none());
    assert!(both[1].lock("/job").try_acquire().await.unwrap().is_some(), "another name is another lock");
    guard.release().await.unwrap();
}
