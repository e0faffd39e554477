//! The command on Redis.

use lock_testkit::{RedisServer, free_port};

use crate::place::Place;
use crate::servers;

/// With time-outs that a busy machine keeps.
fn url(redis: &RedisServer) -> String {
    format!("{}?connect_timeout=30s&response_timeout=30s", redis.url())
}

const PERSISTENT: &[&str] = &["--appendonly", "yes", "--appendfsync", "always"];

#[test]
fn locks_in_redis_exclude_between_processes() {
    let redis = RedisServer::start(PERSISTENT);
    servers::exclude(&Place::at(url(&redis)));
}

#[test]
fn locks_in_redis_are_shown_and_broken() {
    let redis = RedisServer::start(PERSISTENT);
    servers::show_and_break(&Place::at(url(&redis)));
}

#[test]
fn a_redis_that_cannot_be_reached_is_told_by_the_status() {
    servers::cannot_be_reached(format!("redis://127.0.0.1:{}", free_port()));
}

#[test]
fn a_redis_that_dies_stops_the_holders_command_and_ends_the_waiter() {
    let mut redis = RedisServer::start(PERSISTENT);
    let place = Place::at(url(&redis));
    servers::dies(&place, || redis.kill());
}

#[test]
fn a_redis_without_persistence_is_refused_for_correctness_with_the_reason() {
    let forgetful = RedisServer::start(&[]);
    let why = servers::is_enough_for_correctness(&Place::at(url(&forgetful))).unwrap();
    assert!(why.contains("its fencing tokens do not survive") && why.contains("crash"), "{why}");
}
