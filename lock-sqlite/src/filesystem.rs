//! [`Filesystem`]: whether a file system keeps what a lock file needs.

use std::path::Path;

use lock_core::{Error, ErrorKind, Result};

/// What a file system keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filesystem {
    /// What was synced survives a power loss.
    Disk,
    /// It is memory: it survives the process, not the power.
    Memory,
}

/// File systems that other machines may write to as well, by the number that `statfs` gives (Linux,
/// `include/uapi/linux/magic.h` and the file systems' own headers). Two machines have two boot-time clocks, and SQLite's
/// log needs memory that all its processes share.
///
/// FUSE is among them: behind it may be sshfs, an object store, or a folder of a virtual machine's host (virtiofs), and
/// the number does not say which.
const SHARED: &[(u32, &str)] = &[
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x5346_414f, "AFS"),
    (0x6b41_4653, "AFS"),
    (0x00c3_6400, "CEPH"),
    (0x0116_1970, "GFS2"),
    (0x7461_636f, "OCFS2"),
    (0x0bd0_0bd0, "LUSTRE"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BEEGFS"),
    (0x2003_0528, "ORANGEFS"),
    (0xaad7_aaea, "PANFS"),
    (0x7375_7245, "CODA"),
    (0x564c, "NCP"),
    (0x786f_4256, "VBOXSF"),
    (0xbacb_acbc, "VMHGFS"),
    (0x6573_5546, "FUSE"),
];

const TMPFS: u32 = 0x0102_1994;
const RAMFS: u32 = 0x8584_58f6;

impl Filesystem {
    /// Looks at what `path` is on.
    ///
    /// # Errors
    ///
    /// Invalid configuration for a file system that other machines may write to.
    #[cfg(target_os = "linux")]
    pub(crate) fn of(path: &Path) -> Result<Filesystem> {
        let stat = rustix::fs::statfs(path)
            .map_err(|error| crate::error::of_path(path, &error.into(), "its file system cannot be looked at"))?;
        // The number is 32 bits wide; some platforms hand it out with its sign spread.
        Self::of_number(path, stat.f_type as u32)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn of(_path: &Path) -> Result<Filesystem> {
        Ok(Filesystem::Disk)
    }

    fn of_number(path: &Path, number: u32) -> Result<Filesystem> {
        if let Some((_, name)) = SHARED.iter().find(|(shared, _)| *shared == number) {
            let text = format!(
                "{} is on {name}, which other machines may write to; the store sqlite: needs a local file system, since its leases are judged by one machine's clock",
                path.display()
            );
            return Err(Error::refused(ErrorKind::InvalidConfig, text));
        }
        Ok(if [TMPFS, RAMFS].contains(&number) { Filesystem::Memory } else { Filesystem::Disk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_many_machines_is_refused_by_name() {
        for (number, name) in [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0x0102_1997, "9P"), (0x6573_5546, "FUSE")] {
            let error = Filesystem::of_number(Path::new("/mnt/x"), number).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert!(error.to_string().contains(&format!("/mnt/x is on {name}")), "{error}");
        }
    }

    #[test]
    fn memory_is_told_from_a_disk() {
        let ext4 = 0xef53;
        assert_eq!(Filesystem::of_number(Path::new("/x"), ext4).unwrap(), Filesystem::Disk);
        assert_eq!(Filesystem::of_number(Path::new("/x"), TMPFS).unwrap(), Filesystem::Memory);
    }
}
