//! What is mounted where, from `/proc/self/mountinfo`.

use std::path::{Path, PathBuf};

use rustix::fd::AsFd;
use rustix::fs::{
    AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxAttributes, StatxFlags, fstat, openat2, readlinkat, statx,
};
use rustix::io::Errno;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Number of the mount: no other has it while this one is there, in whatever namespace.
    pub id: u64,
    /// Number of the file system's device, as `major:minor`.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Which directory of the file system is mounted; `/` is all of it.
    pub root: PathBuf,
    /// Type of the file system.
    pub file_system: String,
    /// Where the file system comes from.
    pub source: String,
    /// Mounted read-only.
    pub read_only: bool,
}

/// The mounts in the order in which they were made: the last one at a path is the one that is seen.
pub(crate) fn all() -> std::io::Result<Vec<Mount>> {
    listed_in(Path::new(MOUNT_INFO))
}

/// The mounts of another table, such as `/proc/1/mountinfo`.
pub(crate) fn listed_in(table: &Path) -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read(table)?))
}

/// How the node sees a path at which this process has a directory open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SeenByNode {
    /// The same directory.
    Same,
    /// Something else is mounted there: later than this process began, where its mounts are a copy.
    Another,
    /// Nothing is mounted there.
    Nothing,
}

/// Follows the path from the node's root, such as `/proc/1/root`, over the node's own links, to where the kubelet would come.
pub(crate) fn seen_by_node(root: &Path, path: &Path, here: impl AsFd) -> rustix::io::Result<SeenByNode> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let inside = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let there = match retry(|| openat2(&root, path, flags, Mode::empty(), inside)) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(SeenByNode::Nothing),
        opened => opened?,
    };
    let (here, known) = (fstat(here)?, fstat(&there)?);
    if (here.st_dev, here.st_ino) == (known.st_dev, known.st_ino) {
        return Ok(SeenByNode::Same);
    }
    let attributes = statx(&there, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?.stx_attributes;
    let is_mount = attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(if is_mount { SeenByNode::Another } else { SeenByNode::Nothing })
}

/// Looks up a path again when something above it was renamed meanwhile: the kernel answers `EAGAIN` and says to do so.
pub(crate) fn retry<T>(look_up: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    for _ in 0..16 {
        match look_up() {
            Err(Errno::AGAIN) => {}
            found => return found,
        }
    }
    Err(Errno::AGAIN)
}

/// Where the kernel tells.
pub(crate) const MOUNT_INFO: &str = "/proc/self/mountinfo";

/// Lines of `proc(5)`, mountinfo: id, parent, device, root, point, options, any number of tags, `-`, type, source, options.
fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

fn line(line: &[u8]) -> Option<Mount> {
    let mut words = line.split(|byte| *byte == b' ');
    let text = |word: &[u8]| unescape(word).to_string_lossy().into_owned();
    let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
    let device = text(words.nth(1)?);
    let root = unescape(words.next()?);
    let point = unescape(words.next()?);
    let options = words.next()?;
    let mut rest = words.skip_while(|word| *word != b"-").skip(1);
    let file_system = text(rest.next()?);
    let source = text(rest.next()?);
    let read_only = options.split(|byte| *byte == b',').any(|option| option == b"ro");
    Some(Mount { id, device, point, root, file_system, source, read_only })
}

/// Space, tab, newline and backslash stand as three octal digits.
fn unescape(word: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(word.len());
    let mut at = 0;
    while at < word.len() {
        let octal = word.get(at + 1..at + 4).filter(|_| word[at] == b'\\');
        let code = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(word[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// The path that the kernel has for an open directory, whatever links led to it.
pub(crate) fn real_path(directory: impl AsFd) -> rustix::io::Result<PathBuf> {
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStringExt;
    let link = format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd());
    let target = readlinkat(CWD, &link, Vec::new())?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(target.into_bytes())))
}

/// The first mount point at or beneath a path.
pub(crate) fn at_or_beneath<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().find(|mount| mount.point.starts_with(path))
}

/// The mount that is seen at exactly this path.
pub(crate) fn at<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts.iter().rev().find(|mount| mount.point == path)
}

/// The mount that holds a path.
pub(crate) fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .rev()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &[u8] = b"22 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
        30 22 7:0 / /mnt/a\\040disk rw,noatime shared:1 master:2 - xfs /dev/loop0 rw\n\
        31 22 254:0 /opt/x /data ro - ext4 /dev/vda rw\n\
        \n\
        half a line\n";

    #[test]
    fn spaces_tags_and_broken_lines_are_read() {
        let mounts = parse(TEXT);
        assert_eq!(mounts.iter().map(|mount| mount.id).collect::<Vec<_>>(), [22, 30, 31]);
        assert_eq!(mounts[1].point, Path::new("/mnt/a disk"));
        assert_eq!((mounts[1].file_system.as_str(), mounts[1].source.as_str()), ("xfs", "/dev/loop0"));
        assert_eq!(mounts[2].root, Path::new("/opt/x"));
        assert!(mounts[2].read_only && !mounts[1].read_only);
    }

    #[test]
    fn a_path_is_held_by_its_longest_mount() {
        let mounts = parse(TEXT);
        assert_eq!(holding(&mounts, Path::new("/mnt/a disk/x")).unwrap().source, "/dev/loop0");
        assert_eq!(holding(&mounts, Path::new("/mnt/a")).unwrap().source, "/dev/vda");
        assert!(at_or_beneath(&mounts, Path::new("/mnt")).is_some());
        assert!(at_or_beneath(&mounts, Path::new("/mnt/b")).is_none());
    }

    #[test]
    fn what_the_node_has_at_a_path_is_found_over_its_own_links() {
        let node = tempfile::tempdir().unwrap();
        let inside = |path: &str| node.path().join(path);
        std::fs::create_dir_all(inside("data/disk")).unwrap();
        std::fs::create_dir(inside("other")).unwrap();
        // Absolute: it leads from the node's root, not from this process's.
        std::os::unix::fs::symlink("/data", inside("linked")).unwrap();
        let here = std::fs::File::open(inside("data/disk")).unwrap();
        let seen = |root: &Path, path: &str| seen_by_node(root, Path::new(path), &here).unwrap();
        for path in ["/data/disk", "/linked/disk", "/linked/../data/disk"] {
            assert_eq!(seen(node.path(), path), SeenByNode::Same, "{path}");
        }
        for path in ["/other", "/linked", "/missing/disk"] {
            assert_eq!(seen(node.path(), path), SeenByNode::Nothing, "{path}");
        }
        assert_eq!(seen(Path::new("/"), "/proc"), SeenByNode::Another);
        assert!(
            seen_by_node(Path::new("/missing"), Path::new("/"), &here).is_err(),
            "what cannot be looked at tells nothing"
        );
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(at(&all().unwrap(), Path::new("/")).is_some());
    }
}
