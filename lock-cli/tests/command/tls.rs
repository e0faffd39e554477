//! TLS of every store in one executable: the clients of all of them are linked here, each with what
//! it brings for TLS.

use std::path::Path;
use std::process::{Command, Stdio};

use lock_testkit::{PostgresServer, Process, RedisServer, ZooKeeper, free_port, until};

use crate::place::Place;

/// An authority, in a folder of its own, with what it has signed.
struct Authority(tempfile::TempDir);

impl Authority {
    /// An authority that has signed `server`, for this machine, `elsewhere`, for another, and
    /// `client`.
    fn new() -> Authority {
        let authority = Authority(tempfile::tempdir().unwrap());
        authority.openssl(&format!("req -x509 {KEY} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
        for (file, host) in
            [("server", "IP:127.0.0.1"), ("elsewhere", "DNS:elsewhere.test"), ("client", "DNS:client.test")]
        {
            std::fs::write(
                authority.0.path().join("ext"),
                format!("subjectAltName={host}\nbasicConstraints=CA:FALSE\n"),
            )
            .unwrap();
            // The user of PostgreSQL, whom a certificate names.
            authority.openssl(&format!("req {KEY} -keyout {file}.key -out {file}.csr -subj /CN=postgres"));
            let sign = "-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ext";
            authority.openssl(&format!("x509 -req -in {file}.csr -out {file}.pem {sign}"));
        }
        authority
    }

    fn openssl(&self, line: &str) {
        let mut command = Command::new("openssl");
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdout(Stdio::null()).stderr(Stdio::null());
        assert!(command.status().unwrap().success(), "openssl {line}; ./test.sh installs what the tests need");
    }

    fn file(&self, name: &str) -> String {
        Path::new(self.0.path()).join(name).display().to_string()
    }
}

const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";

/// Whether the command locks there. If it does not, it says why, on one line.
fn locks(place: &Place, url: &str) -> bool {
    let said = place.say(&["run", "--store", url, "--wait", "30s", "demo", "--", "echo", "held"]);
    if said.code == Some(0) {
        assert_eq!((said.out.as_str(), said.err.as_str()), ("held\n", ""), "{url}");
        return true;
    }
    assert!(matches!(said.code, Some(69 | 78)), "{url}: {said:?}");
    assert!(said.err.starts_with("leasehold: ") && said.err.lines().count() == 1, "{url}: {said:?}");
    false
}

fn each(place: &Place, cases: &[(&str, String, bool)]) {
    for (what, url, accepted) in cases {
        assert_eq!(locks(place, url), *accepted, "{what}: {url}");
    }
}

#[test]
fn every_mode_of_tls_of_postgresql_works_beside_the_other_stores() {
    let (place, ours, theirs) = (Place::new(), Authority::new(), Authority::new());
    let folder: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(ours.0.path(), folder).unwrap();
    let start = |certificate: &str| {
        PostgresServer::give_to_server_user(Path::new(&ours.file(&format!("{certificate}.key"))));
        let file = |setting: &str, name: &str| format!("{setting}={}", ours.file(name));
        let certificate_file = file("ssl_cert_file", &format!("{certificate}.pem"));
        let key_file = file("ssl_key_file", &format!("{certificate}.key"));
        let server = PostgresServer::start(&["ssl=on", &certificate_file, &key_file, &file("ssl_ca_file", "ca.pem")]);
        assert_eq!(place.say(&["init", &server.url()]).code, Some(0));
        server
    };
    let (right, elsewhere, plain) = (start("server"), start("elsewhere"), PostgresServer::start(&[]));
    assert_eq!(place.say(&["init", &plain.url()]).code, Some(0));
    let url = |server: &PostgresServer, keys: &str| format!("{}?{keys}", server.url());
    let (ca, other) =
        (format!("sslrootcert={}", ours.file("ca.pem")), format!("sslrootcert={}", theirs.file("ca.pem")));
    let identity = |of: &Authority| format!("sslcert={}&sslkey={}", of.file("client.pem"), of.file("client.key"));
    each(
        &place,
        &[
            ("disable", url(&right, "sslmode=disable"), true),
            ("allow", url(&right, "sslmode=allow"), true),
            ("prefer", url(&right, "sslmode=prefer"), true),
            ("require", url(&right, "sslmode=require"), true),
            ("verify-ca", url(&right, &format!("sslmode=verify-ca&{ca}")), true),
            ("verify-ca, another name", url(&elsewhere, &format!("sslmode=verify-ca&{ca}")), true),
            ("verify-full", url(&right, &format!("sslmode=verify-full&{ca}")), true),
            ("a client's certificate", url(&right, &format!("sslmode=verify-full&{ca}&{}", identity(&ours))), true),
            ("verify-ca and a client's", url(&right, &format!("sslmode=verify-ca&{ca}&{}", identity(&ours))), true),
            ("prefer, no TLS there", url(&plain, "sslmode=prefer"), true),
            ("require, no TLS there", url(&plain, "sslmode=require"), false),
            ("verify-ca, another authority", url(&right, &format!("sslmode=verify-ca&{other}")), false),
            ("verify-full, another authority", url(&right, &format!("sslmode=verify-full&{other}")), false),
            ("verify-full, another name", url(&elsewhere, &format!("sslmode=verify-full&{ca}")), false),
            (
                "a stranger's certificate",
                url(&right, &format!("sslmode=verify-full&{ca}&{}", identity(&theirs))),
                false,
            ),
        ],
    );
}

#[test]
fn every_mode_of_tls_of_redis_works_beside_the_other_stores() {
    let (place, ours, theirs) = (Place::new(), Authority::new(), Authority::new());
    let start = |certificate: &str, clients: &str| {
        let port = free_port();
        let (pem, key) = (ours.file(&format!("{certificate}.pem")), ours.file(&format!("{certificate}.key")));
        let own = ["--tls-port", &port.to_string(), "--tls-cert-file", &pem, "--tls-key-file", &key].map(str::to_owned);
        let others = ["--tls-ca-cert-file", &ours.file("ca.pem"), "--tls-auth-clients", clients].map(str::to_owned);
        let settings: Vec<_> = own.iter().chain(&others).map(String::as_str).collect();
        (RedisServer::start(&settings), format!("rediss://127.0.0.1:{port}?connect_timeout=4s"))
    };
    let ((_strict, strict), (_open, open)) = (start("server", "yes"), start("server", "no"));
    let (_elsewhere, elsewhere) = start("elsewhere", "no");
    let ca = |of: &Authority| format!("&ca={}", of.file("ca.pem"));
    let identity = |of: &Authority| format!("&certificate={}&key={}", of.file("client.pem"), of.file("client.key"));
    each(
        &place,
        &[
            ("an authority", format!("{open}{}", ca(&ours)), true),
            ("a client's certificate", format!("{strict}{}{}", ca(&ours), identity(&ours)), true),
            ("another authority", format!("{open}{}", ca(&theirs)), false),
            ("the system's authorities", open, false),
            ("another name", format!("{elsewhere}{}", ca(&ours)), false),
            ("no certificate", format!("{strict}{}", ca(&ours)), false),
            ("a stranger's certificate", format!("{strict}{}{}", ca(&ours), identity(&theirs)), false),
        ],
    );
}

#[test]
fn every_mode_of_tls_of_etcd_works_beside_the_other_stores() {
    let (place, ours, theirs) = (Place::new(), Authority::new(), Authority::new());
    let start = |certificate: &str, more: &[&str]| {
        let (port, peer) = (free_port(), format!("http://127.0.0.1:{}", free_port()));
        let url = format!("https://127.0.0.1:{port}");
        let (pem, key) = (ours.file(&format!("{certificate}.pem")), ours.file(&format!("{certificate}.key")));
        let mut command = Command::new("etcd");
        command
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--logger", "zap"])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--data-dir", &ours.file(&format!("data{port}"))])
            .args(["--cert-file", &pem, "--key-file", &key])
            .args(more)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        (Process::start(&mut command), format!("etcds://127.0.0.1:{port}/app?connect_timeout=4s"))
    };
    let (_open, open) = start("server", &[]);
    let (_strict, strict) = start("server", &["--client-cert-auth", "--trusted-ca-file", &ours.file("ca.pem")]);
    let (_elsewhere, elsewhere) = start("elsewhere", &[]);
    let ca = |of: &Authority| format!("&ca={}", of.file("ca.pem"));
    let identity = |of: &Authority| format!("&certificate={}&key={}", of.file("client.pem"), of.file("client.key"));
    let good = [format!("{open}{}", ca(&ours)), format!("{strict}{}{}", ca(&ours), identity(&ours))];
    for url in &good {
        until("a lock over TLS", || locks(&place, url).then_some(()));
    }
    each(
        &place,
        &[
            ("another authority", format!("{open}{}", ca(&theirs)), false),
            ("the system's authorities", open.clone(), false),
            ("another name", format!("{elsewhere}{}", ca(&ours)), false),
            ("no certificate", format!("{strict}{}", ca(&ours)), false),
            ("a stranger's certificate", format!("{strict}{}{}", ca(&ours), identity(&theirs)), false),
            ("no TLS", open.replace("etcds:", "etcd:"), false),
        ],
    );
}

#[test]
fn every_mode_of_tls_of_zookeeper_works_beside_the_other_stores() {
    let (place, ours, theirs) = (Place::new(), Authority::new(), Authority::new());
    let both = ["server.pem", "server.key"].map(|file| std::fs::read_to_string(ours.file(file)).unwrap());
    std::fs::write(ours.file("both.pem"), both.concat()).unwrap();
    let start = |clients: &str| {
        let port = free_port();
        let lines = [
            format!("secureClientPort={port}"),
            "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
            format!("ssl.keyStore.location={}", ours.file("both.pem")),
            "ssl.keyStore.type=PEM".to_owned(),
            format!("ssl.trustStore.location={}", ours.file("ca.pem")),
            "ssl.trustStore.type=PEM".to_owned(),
            format!("ssl.clientAuth={clients}"),
            "authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider".to_owned(),
        ];
        let server = ZooKeeper::start_configured(&lines.each_ref().map(String::as_str), &[]);
        (server, format!("zks://127.0.0.1:{port}/{clients}?tick=500ms&connect_timeout=4s"))
    };
    let ((_strict, strict), (_open, open)) = (start("need"), start("want"));
    let ca = |of: &Authority| format!("&ca={}", of.file("ca.pem"));
    let identity = |of: &Authority| format!("&certificate={}&key={}", of.file("client.pem"), of.file("client.key"));
    // They listen there after they do without TLS.
    for url in [format!("{open}{}", ca(&ours)), format!("{strict}{}{}", ca(&ours), identity(&ours))] {
        until("a lock over TLS", || locks(&place, &url).then_some(()));
    }
    each(
        &place,
        &[
            ("another authority", format!("{open}{}", ca(&theirs)), false),
            ("another name", format!("{open}{}", ca(&ours)).replace("127.0.0.1", "localhost"), false),
            ("no certificate", format!("{strict}{}", ca(&ours)), false),
            ("a stranger's certificate", format!("{strict}{}{}", ca(&ours), identity(&theirs)), false),
        ],
    );
}
