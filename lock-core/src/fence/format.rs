//! Format of a fence's file: a line with the version, then one record per line.

use std::path::Path;

use super::highest::Record;
use crate::words::{Error, Result};

/// Start of the first line, before the version.
pub(super) const KIND: &str = "leasehold fence ";
pub(super) const HEADER: &str = "leasehold fence 1\n";

/// A record as a line.
pub(super) fn line(record: &Record) -> String {
    let json = serde_json::to_string(record).expect("BUG: a record has strings and numbers only");
    format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()))
}

pub(super) fn parse(line: &[u8]) -> Option<Record> {
    let (sum, json) = std::str::from_utf8(line).ok()?.split_once(' ')?;
    let sum = (sum.len() == 8).then(|| u32::from_str_radix(sum, 16).ok())??;
    (sum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

pub(super) fn corrupt(path: &Path, at: u64) -> Error {
    Error::invalid_config(format!(
        "the fence in {} is damaged at byte {at}: it is not used, since a fence that forgets admits old holders; put no \
         older copy back, but make sure that nobody holds a lock of it, remove it, and raise a new one to the tokens that \
         the store gives next",
        path.display()
    ))
}

pub(super) fn check_version(start: &[u8], path: &Path) -> Result<()> {
    if start.starts_with(HEADER.as_bytes()) {
        return Ok(());
    }
    let path = path.display();
    let version = start.strip_prefix(KIND.as_bytes()).and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    let version = version.and_then(|version| std::str::from_utf8(version).ok()?.parse::<u32>().ok());
    Err(Error::invalid_config(match version.filter(|version| *version != 1) {
        Some(version) => format!("the fence in {path} has format {version}; this version of leasehold reads format 1"),
        None if start.is_empty() => format!(
            "{path} is empty, and no fence: it is not taken for a new one, since a fence that forgets admits old \
             holders; remove it if it never was one"
        ),
        None => format!("{path} is no fence: its first line is not {:?}", HEADER.trim_end()),
    }))
}
