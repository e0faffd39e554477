//! TLS: which certificates are trusted.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use lock_core::{Claim, ErrorKind};
use lock_testkit::PostgresServer;

use crate::fixture::{LONG, grant, init, name, open, try_open};

fn run(program: &str, folder: &Path, words: &str) {
    let mut command = Command::new(program);
    let done = command.args(words.split(' ')).current_dir(folder).stderr(Stdio::null()).stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "{program} {words}; ./test.sh installs what the tests need");
}

/// An authority and its certificates; `expired` was issued ten days ago, for two days.
fn authority(folder: &Path, names: &[(&str, &str)]) {
    run("openssl", folder, "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2");
    for (file, host) in names {
        std::fs::write(folder.join("ext"), format!("subjectAltName={host}")).unwrap();
        let request = format!("req -newkey rsa:2048 -nodes -keyout {file}.key -out {file}.csr -subj /CN={file}");
        run("openssl", folder, &request);
        let sign = format!(
            "x509 -req -in {file}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {file}.pem -days 2 -extfile ext"
        );
        match *file {
            "expired" => run("faketime", folder, &format!("-f -10d openssl {sign}")),
            _ => run("openssl", folder, &sign),
        }
    }
    // The server runs as another user, and accepts a key only if nobody else can read it.
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (file, _) in names {
        PostgresServer::give_to_server_user(&folder.join(format!("{file}.key")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_own_authority_is_believed_and_wrong_names_expired_ones_and_others_are_not() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    authority(ours.path(), &[("server", "IP:127.0.0.1"), ("wrong", "DNS:elsewhere.test"), ("expired", "IP:127.0.0.1")]);
    authority(theirs.path(), &[]);
    let file = |name: &str| ours.path().join(name).display().to_string();
    let start = |certificate: &str| {
        let (pem, key) = (file(&format!("{certificate}.pem")), file(&format!("{certificate}.key")));
        PostgresServer::start(&["ssl=on", &format!("ssl_cert_file={pem}"), &format!("ssl_key_file={key}")])
    };
    let full = |server: &PostgresServer, ca: &Path| {
        format!("{}?sslmode=verify-full&ca={}", server.url(), ca.join("ca.pem").display())
    };
    let server = start("server");
    init(&full(&server, ours.path())).await.unwrap();
    grant(&*open(&full(&server, ours.path())).await, &Claim::new(name("job"), LONG)).await;
    let uses_tls =
        "select count(*) > 0 from pg_stat_ssl join pg_stat_activity using (pid) where ssl and usename = 'postgres'";
    let held = open(&full(&server, ours.path())).await;
    assert_eq!(server.psql(uses_tls), "t");
    drop(held);
    let (wrong, expired) = (start("wrong"), start("expired"));
    for (what, url) in [
        ("another authority", full(&server, theirs.path())),
        ("another name", full(&wrong, ours.path())),
        ("an expired certificate", full(&expired, ours.path())),
    ] {
        let error = try_open(&url).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Denied, "{what}: {error}");
        assert!(!error.may_have_taken_effect());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_mode_does_what_it_says_where_a_program_links_two_kinds_of_tls() {
    let ours = tempfile::tempdir().unwrap();
    authority(ours.path(), &[("server", "DNS:elsewhere.test")]);
    let file = |name: &str| ours.path().join(name).display().to_string();
    let rules = file("rules");
    std::fs::write(&rules, "hostssl all all 127.0.0.1/32 trust\nhostnossl all all 127.0.0.1/32 reject\n").unwrap();
    let keys = [format!("ssl_cert_file={}", file("server.pem")), format!("ssl_key_file={}", file("server.key"))];
    let server = PostgresServer::start(&["ssl=on", &keys[0], &keys[1], &format!("hba_file={rules}")]);
    let url = |mode: &str| format!("{}?sslmode={mode}&ca={}", server.url(), file("ca.pem"));
    init(&url("require")).await.unwrap();
    // Its certificate is of the trusted authority, but for another name.
    for (mode, accepted) in [
        ("disable", false),
        ("allow", true),
        ("prefer", true),
        ("require", true),
        ("verify-ca", true),
        ("verify-full", false),
    ] {
        match try_open(&url(mode)).await {
            Ok(store) => {
                assert!(accepted, "{mode} was accepted");
                grant(&*store, &Claim::new(name(mode), LONG)).await;
            }
            Err(error) => {
                assert!(!accepted, "{mode}: {error}");
                assert_eq!(error.kind(), ErrorKind::Denied, "{mode}: {error}");
            }
        }
    }
    // With `allow`, a server that does not insist gets a plain connection.
    let plain = PostgresServer::start(&["ssl=on", &keys[0], &keys[1]]);
    init(&plain.url()).await.unwrap();
    let held = open(&format!("{}?sslmode=allow", plain.url())).await;
    let uses_tls = "select bool_or(ssl) from pg_stat_ssl join pg_stat_activity using (pid)
         where application_name like 'leasehold%'";
    assert_eq!(plain.psql(uses_tls), "f");
    drop(held);
}
