//! Tests of [`StoreUrl`].

use std::time::Duration;

use super::*;
use crate::words::ErrorKind;

fn url(text: &str) -> StoreUrl {
    text.parse().unwrap()
}

#[test]
fn a_url_without_hosts_has_a_path() {
    for (text, path) in [("sqlite:locks.db", "locks.db"), ("sqlite:/a/b%20c", "/a/b c"), ("sqlite:///a", "/a")] {
        assert_eq!(url(text).path(), path);
        assert!(url(text).hosts().is_empty());
    }
}

#[test]
fn hosts_ports_login_and_keys_are_read() {
    let url = url("redis://me:p%40ss,w:rd@[::1]:7000,b/2?wait=1&ca=%2Fetc%2Fca.pem");
    assert_eq!((url.user(), url.password()), (Some("me"), Some("p@ss,w:rd")));
    assert_eq!(url.hosts(), [("::1".to_owned(), Some(7000)), ("b".to_owned(), None)]);
    assert_eq!((url.path(), url.value("ca")), ("/2", Some("/etc/ca.pem")));
    assert_eq!(url.number("wait").unwrap(), Some(1));
}

#[test]
fn a_host_without_a_port_has_the_default_one() {
    let endpoints = url("etcd://a,[::1]:77").endpoints(2379);
    assert_eq!(endpoints, [("a".to_owned(), 2379), ("::1".to_owned(), 77)]);
    assert!(url("etcd:").endpoints(2379).is_empty());
}

#[test]
fn a_login_is_a_user_with_a_password() {
    let login = |text: &str| url(text).login().unwrap();
    assert_eq!(login("x://me:pw@h"), Some(("me".to_owned(), "pw".to_owned())));
    assert_eq!(login("x://:pw@h"), Some((String::new(), "pw".to_owned())));
    assert_eq!(login("x://h"), None);
    let error = url("x://hunter2@h").login().unwrap_err().to_string();
    assert!(error.contains("user:password@host") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_time_out_of_its_range_is_refused() {
    let range = Duration::from_millis(1)..=Duration::from_secs(60);
    assert_eq!(url("x:y?t=60s").duration_in("t", &range).unwrap(), Some(Duration::from_secs(60)));
    assert_eq!(url("x:y").duration_in("t", &range).unwrap(), None);
    for (value, says) in [("0s", "t=0s is not accepted: it takes 1ms to 60s"), ("61s", "t=61s"), ("soon", "500ms")] {
        let error = url(&format!("x:y?t={value}")).duration_in("t", &range).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn another_programs_spelling_is_refused_with_the_right_one() {
    let keys = ["response_timeout", "ca", "certificate", "key"];
    for (other, right) in [
        ("cert", "certificate"),
        ("timeout", "response_timeout"),
        ("sslrootcert", "ca"),
        ("sslcert", "certificate"),
        ("sslkey", "key"),
    ] {
        let error = url(&format!("etcds://h?{other}=1s")).only_keys(&keys).unwrap_err().to_string();
        let text = format!("the key {other:?} is not accepted in a etcds: URL; write {right}; its keys are ");
        assert!(error.starts_with(&text), "{error}");
    }
    // Where the right key is not accepted either, it is no help.
    let error = url("etcd://h?cert=c.pem").only_keys(&["response_timeout"]).unwrap_err().to_string();
    assert!(!error.contains("certificate"), "{error}");
}

#[test]
fn no_text_of_a_url_shows_a_secret() {
    let url = url("redis://me:hunter2@h?sentinel_password=hunter3&x=1");
    assert_eq!(url.to_string(), "redis://me:***@h?sentinel_password=***&x=1");
    assert!(!format!("{url:?}").contains("hunter"));
    assert_eq!("redis://hunter2@h".parse::<StoreUrl>().unwrap().to_string(), "redis://***@h");
}

#[test]
fn a_password_that_was_not_encoded_is_never_shown() {
    for password in
        ["1234/S3CRET", "1234?S3CRET", "12?k=S3CRET", "1234/S3/CRET", "/S3CRET", "1/S3CRET@x", "1/a?b=S3CRET"]
    {
        for text in [format!("redis://odd:{password}@h"), format!("postgres://app:{password}@h:5432/db?x=1")] {
            let error = text.parse::<StoreUrl>().unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(shown.contains("%2F") && !shown.contains("S3CRET") && !shown.contains("1234"), "{text}: {error}");
        }
    }
    // A character that is unambiguous is accepted as it is meant.
    for password in ["p@ss", "a#b", "a:b", "a,b", "a#b@c"] {
        let url = url(&format!("redis://odd:{password}@h/0"));
        assert_eq!((url.password(), url.path()), (Some(password), "/0"));
        assert!(!format!("{url} {url:?}").contains(password));
    }
    assert_eq!(url("sqlite:/home/me@here/x.db").path(), "/home/me@here/x.db");
    assert_eq!(url("redis://h/a%40b?k=%40").path(), "/a@b");
}

#[test]
fn a_host_without_a_scheme_is_told_what_to_write() {
    for text in ["127.0.0.1:6379", "redis.example.com:6379"] {
        let error = text.parse::<StoreUrl>().unwrap_err().to_string();
        assert!(error.contains(&format!("redis://{text}")), "{error}");
    }
    // A word may be a scheme: only the registry knows the schemes.
    assert!(url("localhost:6379").as_host_and_port().unwrap().contains("redis://localhost:6379"));
    assert_eq!(url("sqlite:x6379").as_host_and_port(), None);
}

#[test]
fn a_refusal_says_what_would_be_accepted_and_shows_no_secret() {
    for text in [
        "",
        "no scheme",
        "HTTP://x",
        "a://h:99999/",
        "a://:hunter2@/",
        "a://u:hunter2@h:port",
        "a:p?key",
        "a:p?k=1&k=2",
    ] {
        let refusal = text.parse::<StoreUrl>().map(|url| url.hosts().len());
        if let Err(error) = refusal {
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        } else {
            assert_eq!(text, "a://:hunter2@/", "{text:?} is accepted");
        }
    }
    let error = url("sqlite:x?tpyo=1").only_keys(&["busy", "prefix"]).unwrap_err();
    assert_eq!(error.to_string(), "the key \"tpyo\" is not accepted in a sqlite: URL; its keys are busy, prefix");
    let error = url("sqlite:x?tpyo=1").only_keys(&[]).unwrap_err();
    assert_eq!(error.to_string(), "the key \"tpyo\" is not accepted in a sqlite: URL; it takes no keys");
    let error = url("x:y?t=soon").duration("t").unwrap_err();
    assert!(error.to_string().contains("t=soon") && error.to_string().contains("500ms"), "{error}");
}
