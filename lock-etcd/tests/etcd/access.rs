//! Access control: TLS, client certificates, users.

use std::path::Path;
use std::process::{Command, Stdio};

use lock_core::{Clock, ErrorKind, Registry, Result, Severity};
use lock_etcd::{EtcdDriver, EtcdStore};
use lock_testkit::{Etcd, Process, free_port};

use crate::fixture::{secs, until};

fn openssl(folder: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split_whitespace()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "openssl {line}");
}

/// Creates an authority `NAME.pem`, and the certificates `NAME-member` and `NAME-client` that it
/// has signed.
fn authority(folder: &Path, name: &str, host: &str) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(folder, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -days 2 -subj /CN={name}"));
    std::fs::write(folder.join("ext"), format!("subjectAltName={host}\nbasicConstraints=CA:FALSE\n")).unwrap();
    for whose in ["member", "client"] {
        openssl(folder, &format!("req {key} -keyout {name}-{whose}.key -out {name}-{whose}.csr -subj /CN={whose}"));
        let sign = format!("-CA {name}.pem -CAkey {name}.key -CAcreateserial -days 2 -extfile ext");
        openssl(folder, &format!("x509 -req -in {name}-{whose}.csr -out {name}-{whose}.pem {sign}"));
    }
}

async fn open(url: &str) -> Result<()> {
    let registry = Registry::new().with(EtcdDriver);
    let store = registry.open(&url.parse()?, &Clock::system()).await?;
    let locks = lock_core::Locks::builder_of(store).ttl(secs(10)).build();
    locks.lock("job").acquire().await?.release().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_a_wrong_authority_a_wrong_name_no_certificate_and_a_downgrade_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file).display().to_string();
    authority(folder.path(), "right", "IP:127.0.0.1");
    authority(folder.path(), "wrong", "IP:127.0.0.1");
    let (client, peer) = (free_port(), free_port());
    let (client_url, peer_url) = (format!("https://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
    let mut command = Command::new("etcd");
    command
        .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
        .args(["--initial-cluster", &format!("default={peer_url}"), "--data-dir", &at("data"), "--logger", "zap"])
        .args(["--cert-file", &at("right-member.pem"), "--key-file", &at("right-member.key")])
        .args(["--client-cert-auth", "--trusted-ca-file", &at("right.pem")])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _server = Process::start(&mut command);
    let url = |host: &str, ca: &str, who: &str| {
        let (ca, cert, key) =
            (at(&format!("{ca}.pem")), at(&format!("{who}-client.pem")), at(&format!("{who}-client.key")));
        format!("etcds://{host}:{client}/app?ca={ca}&certificate={cert}&key={key}")
    };
    let good = url("127.0.0.1", "right", "right");
    until("a lock over TLS", || async { open(&good).await.is_ok() }).await;

    let wrong_authority = open(&url("127.0.0.1", "wrong", "right")).await.unwrap_err();
    assert_eq!(wrong_authority.kind(), ErrorKind::Denied, "{wrong_authority:?}");
    let wrong_name = open(&url("localhost", "right", "right")).await.unwrap_err();
    assert_eq!(wrong_name.kind(), ErrorKind::Denied, "{wrong_name:?}");
    assert!(open(&url("127.0.0.1", "right", "wrong")).await.is_err(), "a stranger's certificate was accepted");
    let none = format!("etcds://127.0.0.1:{client}/app?ca={}", at("right.pem"));
    assert!(open(&none).await.is_err(), "no certificate was accepted");
    assert!(open(&format!("etcd://127.0.0.1:{client}/app")).await.is_err(), "plain text was accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_gets_into_its_own_prefix_and_no_text_shows_the_password() {
    let etcd = Etcd::start(1);
    for line in [
        "user add root:r00t",
        "user grant-role root root",
        "role add app",
        "role grant-permission app readwrite --prefix=true app/",
        "user add app:s3cret",
        "user grant-role app app",
        "auth enable",
    ] {
        let status = etcd.etcdctl().args(line.split_whitespace()).stdout(Stdio::null()).status().unwrap();
        assert!(status.success(), "{line}");
    }
    let endpoint = &etcd.endpoints()[0];
    let good = format!("etcd://app:s3cret@{endpoint}/app");
    open(&good).await.unwrap();
    for (url, what) in [
        (format!("etcd://app:wr0ng@{endpoint}/app"), "a wrong password"),
        (format!("etcd://app:s3cret@{endpoint}/other"), "another prefix"),
        (format!("etcd://{endpoint}/app"), "nobody"),
    ] {
        let error = open(&url).await.expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error:?}");
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("s3cret") && !shown.contains("wr0ng"), "{shown}");
    }
    let registry = Registry::new().with(EtcdDriver);
    let store = registry.open(&good.parse().unwrap(), &Clock::system()).await.unwrap();
    assert!(!format!("{store:?}").contains("s3cret"));
    // Its rights are enough to look at everything.
    let findings = store.diagnose().await.unwrap();
    let codes: Vec<_> = findings.iter().map(|finding| finding.code).collect();
    assert_eq!(codes, EtcdStore::FINDING_CODES);
    assert!(findings.iter().all(|finding| finding.severity < Severity::Error), "{findings:?}");
    assert!(!format!("{findings:?}").contains("s3cret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_a_member_from_being_reached_is_told_in_one_line() {
    let closed = free_port();
    for (endpoint, says) in
        [("no-such-host.invalid:2379".to_owned(), "no-such-host.invalid"), (format!("127.0.0.1:{closed}"), "refused")]
    {
        let error = open(&format!("etcd://{endpoint}/app")).await.unwrap_err();
        let text = error.to_string();
        println!("{text}");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{text}");
        assert!(text.contains(says), "{text}");
        assert!(
            !text.contains(['{', '\n', '"']) && !text.contains("Error("),
            "the inside of an error is shown: {text}"
        );
        assert!(text.len() < 200, "{text}");
    }
}
