//! Users and roles change while locks are held.

use std::path::Path;
use std::process::{Command, Stdio};

use lock_core::{Clock, Locks, Registry};
use lock_etcd::EtcdDriver;
use lock_testkit::Etcd;

use crate::fixture::{secs, until, within_bound};

fn ctl(etcd: &Etcd, line: &str) {
    let output = etcd.etcdctl().args(line.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn enable(etcd: &Etcd) {
    for line in [
        "user add root:r00t",
        "user grant-role root root",
        "role add app",
        "role grant-permission app readwrite --prefix=true app/",
        "user add app:s3cret",
        "user grant-role app app",
        "auth enable",
    ] {
        ctl(etcd, line);
    }
}

/// Any change of a user or a role.
fn change(etcd: &Etcd, round: u32) {
    ctl(etcd, &format!("--user root:r00t role add other{round}"));
    ctl(etcd, &format!("--user root:r00t user add other{round}:x"));
    ctl(etcd, &format!("--user root:r00t user grant-role other{round} other{round}"));
}

async fn open(etcd: &Etcd) -> Locks {
    let url = format!("etcd://app:s3cret@{}/app", etcd.endpoints()[0]);
    let store = Registry::new().with(EtcdDriver).open(&url.parse().unwrap(), &Clock::system()).await.unwrap();
    Locks::builder_of(store).ttl(secs(3)).build()
}

async fn survive(mut etcd: Etcd, restart: bool) {
    enable(&etcd);
    let (ours, theirs) = (open(&etcd).await, open(&etcd).await);
    let held = ours.lock("held").acquire().await.unwrap();
    let fixed = ours.lock("fixed").ttl(secs(60)).fixed().acquire().await.unwrap();
    let waiter = tokio::spawn(theirs.lock("held").acquire());
    for round in 0..5 {
        change(&etcd, round);
        if restart && round == 2 {
            etcd.kill_all();
            etcd.start_all();
        }
        let locks = [&ours, &theirs][round as usize % 2].clone();
        // Each kind of call meets an expired login once.
        change(&etcd, 10 + round);
        let guard = within_bound("an acquire", locks.lock("job").acquire()).await.unwrap();
        change(&etcd, 20 + round);
        within_bound("a release", guard.release()).await.unwrap();
        change(&etcd, 30 + round);
        within_bound("a renewal", held.renew()).await.unwrap();
        within_bound("a renewal", fixed.renew()).await.unwrap();
    }
    assert!(held.is_valid(), "{:?}", held.check());
    change(&etcd, 99);
    held.release().await.unwrap();
    within_bound("the waiter's turn", waiter).await.unwrap().unwrap().release().await.unwrap();
    fixed.release().await.unwrap();
}

fn openssl(folder: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split_whitespace()).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    assert!(command.status().unwrap().success(), "openssl {line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_jwt_a_change_of_users_and_roles_costs_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    openssl(folder.path(), "genrsa -out key.pem 2048");
    openssl(folder.path(), "rsa -in key.pem -pubout -out pub.pem");
    let at = |file: &str| folder.path().join(file).display().to_string();
    let jwt = format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=10m", at("pub.pem"), at("key.pem"));
    survive(Etcd::start_with(1, &["--auth-token", &jwt, "--bcrypt-cost", "4"]), false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_jwt_that_has_run_out_costs_no_lock() {
    let folder = tempfile::tempdir().unwrap();
    openssl(folder.path(), "genrsa -out key.pem 2048");
    openssl(folder.path(), "rsa -in key.pem -pubout -out pub.pem");
    let at = |file: &str| folder.path().join(file).display().to_string();
    let jwt = format!("jwt,pub-key={},priv-key={},sign-method=RS256,ttl=1s", at("pub.pem"), at("key.pem"));
    let etcd = Etcd::start_with(1, &["--auth-token", &jwt, "--bcrypt-cost", "4"]);
    enable(&etcd);
    let locks = open(&etcd).await;
    let held = locks.lock("held").acquire().await.unwrap();
    let end = tokio::time::Instant::now() + secs(5);
    until("many logins", || async {
        locks.lock("job").acquire().await.unwrap().release().await.unwrap();
        tokio::time::Instant::now() > end
    })
    .await;
    assert!(held.is_valid(), "{:?}", held.check());
    held.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn with_simple_tokens_a_change_of_users_and_a_restart_cost_no_lock() {
    survive(Etcd::start_with(1, &["--auth-token", "simple", "--bcrypt-cost", "4"]), true).await;
}
