//! The command on etcd.

use lock_testkit::{Etcd, free_port, until};

use crate::place::Place;
use crate::servers;

fn url(etcd: &Etcd) -> String {
    format!("etcd://{}/app", etcd.endpoints().join(","))
}

/// With time-outs that a busy machine keeps.
fn patient(etcd: &Etcd) -> String {
    format!("{}?response_timeout=30s&connect_timeout=30s", url(etcd))
}

#[test]
fn locks_in_etcd_exclude_between_processes() {
    let etcd = Etcd::start(1);
    servers::exclude(&Place::at(patient(&etcd)));
}

#[test]
fn locks_in_etcd_are_shown_and_broken() {
    let etcd = Etcd::start(1);
    servers::show_and_break(&Place::at(patient(&etcd)));
}

#[test]
fn an_etcd_that_cannot_be_reached_is_told_by_the_status() {
    servers::cannot_be_reached(format!("etcd://127.0.0.1:{}", free_port()));
}

#[test]
fn an_etcd_that_dies_stops_the_holders_command_and_ends_the_waiter() {
    let mut etcd = Etcd::start(1);
    let place = Place::at(url(&etcd));
    servers::dies(&place, || etcd.kill_all());
}

#[test]
fn etcd_is_enough_for_correctness() {
    let etcd = Etcd::start(1);
    assert_eq!(servers::is_enough_for_correctness(&Place::at(patient(&etcd))), None);
}

#[test]
fn a_holder_goes_on_when_one_of_three_members_of_etcd_is_killed() {
    let mut etcd = Etcd::start(3);
    let place = Place::at(url(&etcd));
    let script = "echo > held; while ! test -e go; do sleep 0.02; done";
    let holder = place.run(&["--ttl", "60s", "demo"], script);
    place.line("held");
    let leader = etcd.leader();
    etcd.member_mut(leader).kill();
    let tries = || place.say(&["run", "--try", "demo", "--", "true"]);
    // A slow election is longer than a call may take.
    let refused = until("an answer", || Some(tries()).filter(|said| said.code != Some(69)));
    assert_eq!(refused.code, Some(75), "{refused:?}");
    std::fs::write(place.path("go"), "").unwrap();
    let holder = holder.end();
    assert_eq!((holder.code, holder.err.as_str()), (Some(0), ""), "{holder:?}");
    let next = tries();
    assert_eq!(next.code, Some(0), "{next:?}");
}
