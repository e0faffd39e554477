//! Logins, certificates, and hostile names.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lock_core::{BreakMode, Claim, ErrorKind, LockStore, ReleaseOutcome, RenewalBatch, RenewalOutcome, Space};
use lock_redis::RedisStore;
use lock_testkit::{RedisCluster, RedisServer, until};

use crate::fixture::{LONG, codes, grant, locks, name, open, server, try_open, warnings};

const PASSWORD: &str = "hunter2-correct-horse";

/// The rights that a user needs: keys, channels and commands. Without INFO and CONFIG nothing is
/// promised.
const RIGHTS: [&str; 24] = [
    "resetkeys",
    "resetchannels",
    "-@all",
    "~lock:*",
    "&lock:*",
    "+evalsha",
    "+eval",
    "+script|load",
    "+get",
    "+mget",
    "+set",
    "+del",
    "+exists",
    "+incr",
    "+incrby",
    "+pexpire",
    "+pttl",
    "+rename",
    "+publish",
    "+subscribe",
    "+unsubscribe",
    "+scan",
    "+select",
    "+ping",
];

fn add_user(server: &RedisServer, extra: &[&str]) {
    let password = format!(">{PASSWORD}");
    let mut words = vec!["ACL", "SETUSER", "app", "reset", "on", &password];
    words.extend(RIGHTS);
    words.extend(extra);
    assert_eq!(server.cli(&words), "OK");
}

fn with_user(extra: &[&str]) -> (RedisServer, String) {
    let server = server();
    add_user(&server, extra);
    let url = format!("redis://app:{PASSWORD}@127.0.0.1:{}", server.port());
    (server, url)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_with_only_the_locks_rights_can_do_everything() {
    let (server, url) = with_user(&[]);
    let (a, b) = (open(&url).await, open(&url).await);
    let claim = Claim::new(name("job"), LONG);
    grant(&a, &claim).await;
    let batch = RenewalBatch::new(&lock_core::Clock::system(), [claim.clone()]);
    a.renew(&batch).await.unwrap();
    assert!(matches!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(_))));
    let waiter = tokio::spawn(locks(&b).lock("job").wait(LONG).acquire());
    until("a waiter", || server.cli(&["PUBSUB", "CHANNELS"]).contains("lock:job").then_some(()));
    a.release(&claim, Duration::ZERO).await.unwrap();
    let guard = tokio::time::timeout(lock_testkit::WAIT_TIMEOUT, waiter).await.unwrap().unwrap().unwrap();
    assert_eq!(a.list(Space::Locks, None, 10).await.unwrap().len(), 1);
    let seen = a.inspect(&name("job"), Space::Locks).await.unwrap().pop().unwrap();
    assert!(a.break_lock(&name("job"), &seen, BreakMode::Revoke).await.unwrap().is_some());
    assert!(guard.renew().await.is_err());
    a.new_realm().await.unwrap();
    // It may not ask for INFO or CONFIG, so that nothing is promised.
    assert!(a.guarantees().records_survive.is_empty());
    let warnings = warnings(&a).await;
    assert_eq!(codes(&warnings), ["role", "maxmemory-policy", "persistence", "replicas"]);
    assert!(warnings.iter().all(|finding| finding.text.contains("may not ask")), "{warnings:?}");
    let (_with, url) = with_user(&["+info", "+config|get", "+role"]);
    assert_eq!(open(&url).await.guarantees().shortfalls(&lock_core::Guarantees::FOR_CORRECTNESS), []);
}

/// Requests, renews, lists and releases.
async fn use_it(store: &RedisStore) {
    let claim = Claim::new(name("job"), LONG);
    grant(store, &claim).await;
    let batch = RenewalBatch::new(&lock_core::Clock::system(), [claim.clone()]);
    store.renew(&batch).await.unwrap();
    assert!(matches!(batch.iter().next().unwrap().outcome(), Some(RenewalOutcome::HeldFor(_))));
    assert_eq!(store.list(Space::Locks, None, 10).await.unwrap().len(), 1);
    assert_eq!(store.release(&claim, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_for_replicas_needs_one_right_more() {
    let (server, url) = with_user(&["+wait"]);
    let _replica = RedisServer::replica_of(&server, &[]);
    use_it(&*open(&format!("{url}?wait=1&wait_timeout=20s")).await).await;
    add_user(&server, &[]);
    let store = open(&format!("{url}?wait=1&wait_timeout=20s")).await;
    let error = store.request(&Claim::new(name("job"), LONG)).await.err().unwrap();
    assert!(!error.may_have_taken_effect() && error.to_string().contains("this user may not"), "{error}");
    assert!(store.inspect(&name("job"), Space::Locks).await.unwrap().is_empty(), "it is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_needs_two_rights_more() {
    let mut cluster = RedisCluster::start_without_replicas(&[]);
    for server in cluster.servers() {
        add_user(server, &["+cluster|slots", "+asking"]);
    }
    let store = open(&cluster.url().replace("://", &format!("://app:{PASSWORD}@"))).await;
    use_it(&store).await;
    // With them a slot migration is followed, too.
    let moved = Claim::new(name("job"), LONG);
    grant(&store, &moved).await;
    let moving = cluster.start_slot_migration(cluster.slot_of("lock:job"));
    moving.move_key("lock:job");
    assert_eq!(store.release(&moved, Duration::ZERO).await.unwrap(), ReleaseOutcome::Held);
    moving.finish();
    use_it(&store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lacks_a_right_is_denied_and_loses_nothing_by_it() {
    let (_server, url) = with_user(&[]);
    let other = open(&format!("{url}?prefix=lock:")).await;
    let claim = Claim::new(name("job"), LONG);
    grant(&other, &claim).await;
    let denied = try_open(&format!("{url}?prefix=other:")).await.err().unwrap();
    assert_eq!(denied.kind(), ErrorKind::Denied, "{denied}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_text_shows_a_password() {
    let (_server, url) = with_user(&[]);
    let store = open(&url).await;
    assert!(!format!("{store:?}").contains(PASSWORD), "{store:?}");
    let wrong = url.replace(PASSWORD, "hunter2-wrong");
    let old = url.replace("app:", "nobody:");
    for url in [wrong, old] {
        let error = try_open(&url).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(!format!("{error:?} {error}").contains("hunter2"), "{error:?}");
    }
    let needs = RedisServer::start(&["--requirepass", PASSWORD]);
    assert_eq!(try_open(&needs.url()).await.err().unwrap().kind(), ErrorKind::Denied);
    open(&format!("redis://:{PASSWORD}@127.0.0.1:{}", needs.port())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_names_do_nothing() {
    let server = server();
    let store = open(&server.url()).await;
    for text in ["'; return redis.call('FLUSHALL') --", "\"]]) redis.call('FLUSHALL')", "* MATCH *", "{", "}{", "a}{b"]
    {
        let claim = Claim::new(name(text), LONG);
        grant(&store, &claim).await;
        assert_eq!(
            store.inspect(claim.name(), Space::Locks).await.unwrap().pop().unwrap().holder,
            Some(claim.holder()),
            "{text}"
        );
    }
    assert_eq!(store.list(Space::Locks, None, 100).await.unwrap().len(), 6);
    // Values that another program wrote.
    for value in ["", ".", "x.y.z", "0123456789abcdef0123456789abcdef.99999999999999999999999.", "\u{fffd}"] {
        server.cli(&["SET", "lock:odd", value, "PX", "600000"]);
        let by = store.inspect(&name("odd"), Space::Locks).await.unwrap().pop().expect("it is held");
        assert_eq!(by.holder, None, "{value}");
    }
    server.cli(&["SET", "lock:odd", "0123456789abcdef0123456789abcdef.9223372036854775807", "PX", "600000"]);
    drop(store.request(&Claim::new(name("odd"), LONG)).await.unwrap());
    let by = store.inspect(&name("odd"), Space::Locks).await.unwrap().pop().unwrap();
    assert!(store.break_lock(&name("odd"), &by, BreakMode::Now).await.unwrap().is_some());
    assert!(grant(&store, &Claim::new(name("fine"), LONG)).await.number() < 1_000, "it raised no counter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_its_counter_cannot_have_given_raises_none() {
    let server = server();
    let store = open(&server.url()).await;
    grant(&store, &Claim::new(name("first"), LONG)).await;
    for forged in ["9007199254740991", "1700000000000", "4000000000000000"] {
        let value = format!("0123456789abcdef0123456789abcdef.{forged}");
        server.cli(&["SET", "lock:forged", &value, "PX", "600000"]);
        drop(store.request(&Claim::new(name("forged"), LONG)).await.unwrap());
        let claim = Claim::new(name("fine"), LONG);
        assert!(grant(&store, &claim).await.number() < 1_000, "{forged} was seen");
        store.release(&claim, Duration::ZERO).await.unwrap();
        let by = store.inspect(&name("forged"), Space::Locks).await.unwrap().pop().unwrap();
        let broken = store.break_lock(&name("forged"), &by, BreakMode::Now).await.unwrap().unwrap();
        assert!(broken.token.unwrap().number() < 1_000, "{forged} was broken");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_and_a_database_of_its_own_are_used() {
    let server = RedisServer::start(&["--unixsocket", "redis.sock", "--unixsocketperm", "700"]);
    let store = open(&format!("redis+unix://{}?database=3", server.folder().join("redis.sock").display())).await;
    let claim = Claim::new(name("job"), LONG);
    grant(&store, &claim).await;
    assert_eq!(server.cli(&["-n", "3", "EXISTS", "lock:job"]), "1");
    assert_eq!(server.cli(&["DBSIZE"]), "0");
}

fn openssl(folder: &Path, words: &str) {
    let mut command = Command::new("openssl");
    let done = command.args(words.split(' ')).current_dir(folder).stderr(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "openssl {words}; ./test.sh installs what the tests need");
}

/// An authority, and certificates that it issued.
fn authority(folder: &Path, names: &[(&str, &str)]) {
    openssl(folder, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2");
    for (file, host) in names {
        std::fs::write(folder.join("ext"), format!("subjectAltName={host}")).unwrap();
        openssl(folder, &format!("req -newkey rsa:2048 -nodes -keyout {file}.key -out {file}.csr -subj /CN={file}"));
        openssl(
            folder,
            &format!(
                "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {file}.pem -days 2 -extfile ext"
            ),
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_takes_the_own_authority_and_refuses_others() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority(
        ours.path(),
        &[("server", "IP:127.0.0.1"), ("wrong", "DNS:elsewhere.test"), ("client", "DNS:client.test")],
    );
    authority(theirs.path(), &[]);
    let file = |name: &str| ours.path().join(name).display().to_string();
    let start = |certificate: &str| {
        let port = lock_testkit::free_port();
        let server = RedisServer::start(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &file(&format!("{certificate}.pem")),
            "--tls-key-file",
            &file(&format!("{certificate}.key")),
            "--tls-ca-cert-file",
            &file("ca.pem"),
        ]);
        (server, format!("rediss://127.0.0.1:{port}"))
    };
    let (server, url) = start("server");
    let (ca, certificate, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
    let whole = format!("{url}?ca={ca}&certificate={certificate}&key={key}");
    grant(&*open(&whole).await, &Claim::new(name("job"), LONG)).await;
    let other_ca = theirs.path().join("ca.pem").display().to_string();
    for refused in [
        format!("{url}?ca={other_ca}&certificate={certificate}&key={key}"),
        format!("{url}?ca={ca}"),
        format!("{url}?certificate={certificate}&key={key}"),
        // A server that speaks no TLS is no server for rediss.
        format!("rediss://127.0.0.1:{}?ca={ca}", server.port()),
    ] {
        // One that answers nothing that makes sense is left when the time is over.
        let refused = format!("{refused}&connect_timeout=2s");
        assert!(try_open(&refused).await.is_err(), "{refused}");
    }
    let (_wrong, url) = start("wrong");
    assert!(try_open(&format!("{url}?ca={ca}&certificate={certificate}&key={key}")).await.is_err());
    let missing = try_open(&format!("{url}?ca=/nowhere/ca.pem")).await.err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::InvalidConfig);
    // A refusal by either side has one kind, and is not retryable.
    let (_server, of_server) = start("server");
    for refused in [
        format!("{of_server}?ca={other_ca}&certificate={certificate}&key={key}"),
        format!("{of_server}?ca={ca}"),
        format!("{url}?ca={ca}&certificate={certificate}&key={key}"),
    ] {
        let error = try_open(&refused).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{refused}: {error}");
        assert!(error.to_string().contains("certificate"), "{refused}: {error}");
    }
    // A file without the content that it is named for.
    std::fs::write(ours.path().join("empty.pem"), "no certificate and no key\n").unwrap();
    let empty = file("empty.pem");
    for files in [
        format!("ca={empty}"),
        format!("ca={key}"),
        format!("ca={ca}&certificate={empty}&key={key}"),
        format!("ca={ca}&certificate={certificate}&key={empty}"),
    ] {
        let error = try_open(&format!("{url}?{files}")).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{files}: {error}");
        assert!(error.to_string().contains(".pem") || error.to_string().contains(".key"), "{files}: {error}");
    }
}
