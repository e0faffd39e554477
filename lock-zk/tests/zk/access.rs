//! Authentication by TLS, client certificates and users; access control of the nodes.

use std::path::Path;
use std::process::{Command, Stdio};

use lock_core::{Clock, ErrorKind, Locks, Registry, Result, Severity};
use lock_testkit::{ZooKeeper, free_port};
use lock_zk::ZkDriver;
use zookeeper_client::{Acls, CreateMode, Error as Failure};

use crate::fixture::{client, nodes, secs, until};

fn openssl(folder: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split_whitespace()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "openssl {line}");
}

/// Makes an authority `NAME.pem`, and the certificates `NAME-server` and `NAME-client` that it
/// signs.
fn make_authority(folder: &Path, name: &str, host: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    std::fs::write(folder.join("ext"), format!("subjectAltName={host}\nbasicConstraints=CA:FALSE\n")).unwrap();
    for whose in ["server", "client"] {
        openssl(folder, &format!("req {key} -keyout {name}-{whose}.key -out {name}-{whose}.csr -subj /CN={whose}"));
        let sign = format!("-CA {name}.pem -CAkey {name}.key -CAcreateserial -days 2 -extfile ext");
        openssl(folder, &format!("x509 -req -in {name}-{whose}.csr -out {name}-{whose}.pem {sign}"));
    }
}

async fn open(url: &str) -> Result<Locks> {
    let store = Registry::new().with(ZkDriver).open(&url.parse()?, &Clock::system()).await?;
    let locks = Locks::builder_of(store).ttl(secs(30)).build();
    locks.lock("first").acquire().await?.release().await?;
    Ok(locks)
}

/// Holds a lock, and checks that a client without a login can neither delete the holder's node, nor
/// enter the queue, nor delete the nodes above.
async fn assert_closed_to_others(zookeeper: &ZooKeeper, locks: &Locks) {
    let guard = locks.lock("job").acquire().await.unwrap();
    let stranger = client(zookeeper).await;
    let node = match stranger.list_children("/app/job").await {
        Err(Failure::NoAuth) => "/app/job/any".to_owned(),
        children => panic!("a stranger sees {children:?}"),
    };
    let anyone = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    assert_eq!(stranger.create("/app/job/lock-", b"", &anyone).await.unwrap_err(), Failure::NoAuth);
    assert_eq!(stranger.delete("/app/job", None).await.unwrap_err(), Failure::NoAuth);
    assert!(matches!(stranger.delete(&node, None).await, Err(Failure::NoAuth | Failure::NoNode)));
    assert_eq!(stranger.set_data("/app/%realm", b"", None).await.unwrap_err(), Failure::NoAuth);
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_a_wrong_authority_a_wrong_name_no_certificate_and_a_downgrade_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file).display().to_string();
    make_authority(folder.path(), "right", "IP:127.0.0.1");
    make_authority(folder.path(), "wrong", "IP:127.0.0.1");
    let both = [at("right-server.pem"), at("right-server.key")].map(|file| std::fs::read_to_string(file).unwrap());
    std::fs::write(at("server.pem"), both.concat()).unwrap();
    let port = free_port();
    let lines = [
        format!("secureClientPort={port}"),
        "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
        format!("ssl.keyStore.location={}", at("server.pem")),
        "ssl.keyStore.type=PEM".to_owned(),
        format!("ssl.trustStore.location={}", at("right.pem")),
        "ssl.trustStore.type=PEM".to_owned(),
        "ssl.clientAuth=need".to_owned(),
        "authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider".to_owned(),
    ];
    let zookeeper = ZooKeeper::start_configured(&lines.each_ref().map(String::as_str), &[]);
    let url = |host: &str, ca: &str, who: &str| {
        let (ca, cert, key) =
            (at(&format!("{ca}.pem")), at(&format!("{who}-client.pem")), at(&format!("{who}-client.key")));
        format!("zks://{host}:{port}/app?tick=500ms&ca={ca}&certificate={cert}&key={key}")
    };
    let good = url("127.0.0.1", "right", "right");
    // The server opens this port after that without TLS.
    until("a lock over TLS", || async { open(&good).await.is_ok() }).await;
    let locks = open(&good).await.unwrap();
    // The certificate authenticates the client.
    assert_closed_to_others(&zookeeper, &locks).await;

    let none = format!("zks://127.0.0.1:{port}/app?tick=500ms&ca={}", at("right.pem"));
    for (url, what) in [
        (url("127.0.0.1", "wrong", "right"), "a wrong authority"),
        (url("localhost", "right", "right"), "a wrong name"),
        (url("127.0.0.1", "right", "wrong"), "a stranger's certificate"),
        (none, "no certificate"),
        (format!("zk://127.0.0.1:{port}/app?tick=500ms"), "plain text"),
    ] {
        let error = open(&url).await.expect_err(what);
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied), "{what}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_user_makes_is_closed_to_others_and_no_text_shows_the_password() {
    let zookeeper = ZooKeeper::start(1);
    let endpoint = &zookeeper.endpoints()[0];
    let good = format!("zk://app:s3cret@{endpoint}/app?tick=500ms");
    let locks = open(&good).await.unwrap();
    assert_closed_to_others(&zookeeper, &locks).await;
    let findings = locks.diagnose().await.unwrap();
    assert!(findings.iter().all(|finding| finding.severity == Severity::Info), "{findings:?}");
    for (url, what) in [
        (format!("zk://app:wr0ng@{endpoint}/app?tick=500ms"), "a wrong password"),
        (format!("zk://{endpoint}/app?tick=500ms"), "nobody"),
    ] {
        let error = open(&url).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("wr0ng"), "{shown}");
    }
    let store = Registry::new().with(ZkDriver).open(&good.parse().unwrap(), &Clock::system()).await.unwrap();
    assert!(!format!("{store:?}").contains("s3cret"));
    // Without a login the nodes are open to all.
    let open_to_all = open(&format!("zk://{endpoint}/open?tick=500ms")).await.unwrap();
    let guard = open_to_all.lock("job").acquire().await.unwrap();
    let (acl, _) = client(&zookeeper).await.get_acl("/open/job").await.unwrap();
    assert_eq!(acl[0].scheme(), "world");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_the_servers_know_gets_in_by_sasl_and_one_that_they_do_not_know_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let logins = folder.path().join("jaas.conf");
    let module = "org.apache.zookeeper.server.auth.DigestLoginModule required";
    std::fs::write(&logins, format!("Server {{ {module} user_app=\"s3cret\"; }};")).unwrap();
    let zookeeper = ZooKeeper::start_configured(
        &["authProvider.1=org.apache.zookeeper.server.auth.SASLAuthenticationProvider"],
        &[&format!("java.security.auth.login.config={}", logins.display())],
    );
    let endpoint = &zookeeper.endpoints()[0];
    let locks = open(&format!("zk://app:s3cret@{endpoint}/app?tick=500ms&auth=sasl")).await.unwrap();
    assert_closed_to_others(&zookeeper, &locks).await;
    assert!(nodes(&client(&zookeeper).await, "other").await.is_empty());
    let error = open(&format!("zk://app:wr0ng@{endpoint}/app?tick=500ms&auth=sasl")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Denied), "{error:?}");
    assert!(!format!("{error:?}").contains("wr0ng"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_nobody_knows_is_named_as_such() {
    let error = open("zk://no-such-host.invalid/app").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("no-such-host.invalid is not known"), "{error}");
}
