//! The store of a command, and the names of locks.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use leasehold::LockName;

use crate::failure::Failure;

/// The URL of the store: `--store`, else `LEASEHOLD_STORE`, else an SQLite file in the user's state
/// folder, which is made if it is not there.
pub(crate) fn url(option: Option<&str>) -> Result<String, Failure> {
    configured_url(option)?.map_or_else(default_url, Ok)
}

/// The URL that the user has named, if there is one.
pub(crate) fn configured_url(option: Option<&str>) -> Result<Option<String>, Failure> {
    if let Some(url) = option {
        return Ok(Some(url.to_owned()));
    }
    let named =
        std::env::var_os("LEASEHOLD_STORE").filter(|url| !url.is_empty()).map(OsString::into_string).transpose();
    named.map_err(|_| Failure::config("LEASEHOLD_STORE is not accepted: it is no UTF-8"))
}

fn default_url() -> Result<String, Failure> {
    let folder = state_folder()?.join("leasehold");
    if folder.to_str().is_none() {
        return Err(Failure::config(format!(
            "the state folder {folder:?} is not accepted: it is no UTF-8; name a store with --store or LEASEHOLD_STORE"
        )));
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder).map_err(|error| {
        Failure::config(format!("the folder {} cannot be made: {error}; name a store with --store", folder.display()))
    })?;
    Ok(sqlite_url(&folder.join("locks.db")))
}

fn state_folder() -> Result<PathBuf, Failure> {
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    absolute("XDG_STATE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".local/state"))).ok_or_else(|| {
        Failure::config("there is no state folder, since HOME names none: name a store with --store or LEASEHOLD_STORE")
    })
}

/// Refuses a store whose data end with this command.
pub(crate) fn require_persistent(url: &str) -> Result<(), Failure> {
    if url.split_once(':').is_some_and(|(scheme, _)| scheme == "memory") {
        return Err(Failure::config(
            "the store memory: ends with each command, so that it excludes nobody; use another, such as sqlite:/PATH",
        ));
    }
    Ok(())
}

/// The URL of this file: whatever would end or change the path is percent-encoded.
fn sqlite_url(path: &Path) -> String {
    let mut url = "sqlite:".to_owned();
    for (at, byte) in path.as_os_str().as_bytes().iter().enumerate() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) || (*byte == b'/' && at != 1);
        if plain {
            url.push(char::from(*byte));
        } else {
            let _ = write!(url, "%{byte:02X}");
        }
    }
    url
}

/// The lock's name from the command line.
pub(crate) fn name(text: &OsStr) -> Result<LockName, Failure> {
    match text.to_str() {
        Some(text) => Ok(LockName::new(text)?),
        None => Err(Failure::usage(format!("the lock name {text:?} is not accepted: it is no UTF-8"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_survives_its_way_through_a_url() {
        for path in ["/home/a b/locks.db", "/tmp/50%?x=1/é", "//odd/locks.db"] {
            let url: leasehold::StoreUrl = sqlite_url(Path::new(path)).parse().unwrap();
            assert_eq!((url.path(), url.hosts().len()), (path, 0));
        }
    }
}
