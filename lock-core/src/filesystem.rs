//! [`Filesystem`]: how durable a file is, by its file system.

use std::io;
use std::path::Path;

/// How durable a file is, by its file system. A store or a fence in a file has to know it before it
/// promises anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filesystem {
    /// Synced data survives a power loss.
    Disk,
    /// It is memory, or may be: the file survives the process, but perhaps not a power loss. Layers
    /// of a container whose file system cannot be determined count as this.
    Memory,
    /// Other machines may write to it as well; the text is its name.
    Shared(&'static str),
}

/// File systems that other machines may write to as well, by the number that `statfs` gives (Linux,
/// `include/uapi/linux/magic.h` and the file systems' own headers).
///
/// FUSE is among them: behind it may be sshfs, an object store, or a folder of a virtual machine's
/// host (virtiofs), and the number does not say which.
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
#[cfg(target_os = "linux")]
const OVERLAY: u32 = 0x794c_7630;

impl Filesystem {
    /// The file system of `path`, which must exist. For an overlay, the root of most containers, it
    /// is that of the upper layer.
    ///
    /// # Errors
    ///
    /// Errors of the system for this path.
    #[cfg(target_os = "linux")]
    pub fn of(path: &Path) -> io::Result<Filesystem> {
        match number(path)? {
            // The upper layer is often invisible from inside; then nothing is known.
            OVERLAY => Ok(match mounts::upper_layer(path).and_then(|layer| number(&layer).ok()) {
                None | Some(OVERLAY) => Filesystem::Memory,
                Some(number) => Filesystem::of_number(number),
            }),
            number => Ok(Filesystem::of_number(number)),
        }
    }

    /// On every system but Linux, a file system counts as a disk.
    ///
    /// # Errors
    ///
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn of(_path: &Path) -> io::Result<Filesystem> {
        Ok(Filesystem::Disk)
    }

    /// True if the file at `path` is a mount of its own, as a single file that is shared with a
    /// container is. Then its folder here is not the folder in which others see it: a file beside
    /// it, or one that is renamed to its name, is a different file for them. `path` has no symbolic
    /// links. Kernels before 5.8 do not report it, and the result is false.
    ///
    /// # Errors
    ///
    /// Errors of the system for this path.
    pub fn is_mounted_alone(path: &Path) -> io::Result<bool> {
        let folder = path.parent().unwrap_or(path);
        Ok(match (mounts::id(path)?, mounts::id(folder)?) {
            (Some(file), Some(folder)) => file != folder,
            _ => false,
        })
    }

    fn of_number(number: u32) -> Filesystem {
        if let Some((_, name)) = SHARED.iter().find(|(shared, _)| *shared == number) {
            return Filesystem::Shared(name);
        }
        if [TMPFS, RAMFS].contains(&number) { Filesystem::Memory } else { Filesystem::Disk }
    }
}

#[cfg(target_os = "linux")]
fn number(path: &Path) -> io::Result<u32> {
    // The number is 32 bits wide; some platforms return it sign-extended.
    Ok(rustix::fs::statfs(path)?.f_type as u32)
}

#[cfg(target_os = "linux")]
mod mounts {
    use std::ffi::OsString;
    use std::io;
    use std::os::unix::ffi::OsStringExt;
    use std::path::{Path, PathBuf};

    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

    /// The number of the mount that `path` is on, as `mountinfo` has it; `None` if the kernel does
    /// not say.
    pub(super) fn id(path: &Path) -> io::Result<Option<u64>> {
        let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
        let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::MNT_ID);
        Ok(known.then_some(stat.stx_mnt_id))
    }

    /// The upper layer of the overlay of `path`, if it is known.
    pub(super) fn upper_layer(path: &Path) -> Option<PathBuf> {
        let id = id(path).ok()??;
        upper_layer_in(&std::fs::read("/proc/self/mountinfo").ok()?, id)
    }

    pub(super) fn upper_layer_in(mountinfo: &[u8], id: u64) -> Option<PathBuf> {
        let id = id.to_string();
        let mut lines = mountinfo.split(|byte| *byte == b'\n').map(|line| line.split(|byte| *byte == b' '));
        let words = lines.find_map(|mut words| (words.next()? == id.as_bytes()).then_some(words))?;
        // After a lone "-" come the type, the source and the options of the file system.
        let options = words.skip_while(|word| *word != b"-").nth(3)?;
        let upper = options.split(|byte| *byte == b',').find_map(|option| option.strip_prefix(b"upperdir="))?;
        let upper = PathBuf::from(OsString::from_vec(unescaped(upper)));
        // A relative path is relative to the directory from which it was mounted.
        upper.is_absolute().then_some(upper)
    }

    /// Spaces and the like are written as `\040`.
    fn unescaped(text: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(text.len());
        let mut rest = text;
        while let [byte, after @ ..] = rest {
            let octal = (*byte == b'\\').then(|| after.get(..3)).flatten();
            let code = octal.and_then(|octal| u8::from_str_radix(std::str::from_utf8(octal).ok()?, 8).ok());
            plain.push(code.unwrap_or(*byte));
            rest = if code.is_some() { &after[3..] } else { after };
        }
        plain
    }
}

#[cfg(not(target_os = "linux"))]
mod mounts {
    use std::io;
    use std::path::Path;

    pub(super) fn id(_path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_of_many_machines_is_known_by_name() {
        for (number, name) in [(0x6969, "NFS"), (0xff53_4d42, "CIFS"), (0x0102_1997, "9P"), (0x6573_5546, "FUSE")] {
            assert_eq!(Filesystem::of_number(number), Filesystem::Shared(name));
        }
    }

    #[test]
    fn memory_is_told_from_a_disk() {
        let ext4 = 0xef53;
        assert_eq!(Filesystem::of_number(ext4), Filesystem::Disk);
        assert_eq!(Filesystem::of_number(TMPFS), Filesystem::Memory);
        assert_eq!(Filesystem::of(Path::new("/dev/shm")).unwrap(), Filesystem::Memory);
    }

    #[test]
    fn the_upper_layer_of_an_overlay_is_found_by_its_mount() {
        let mountinfo = b"21 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
            36 21 0:40 / /a rw,relatime shared:5 - overlay overlay rw,lowerdir=/l,upperdir=/up\\040per,workdir=/w\n\
            37 21 0:41 / /b rw - overlay overlay rw,lowerdir=/l,upperdir=upper,workdir=work\n\
            38 21 0:42 / /c ro - overlay overlay ro,lowerdir=/l\n";
        assert_eq!(mounts::upper_layer_in(mountinfo, 36), Some("/up per".into()));
        for other in [21, 37, 38, 3] {
            assert_eq!(mounts::upper_layer_in(mountinfo, other), None, "{other}");
        }
    }

    #[test]
    fn a_file_in_its_folder_is_no_mount_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap().join("file");
        std::fs::write(&path, "").unwrap();
        assert!(!Filesystem::is_mounted_alone(&path).unwrap());
        assert!(Filesystem::is_mounted_alone(Path::new("/proc")).unwrap());
    }
}
